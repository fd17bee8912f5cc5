//! The checks of the stream as the relay runs them: one at a time, before anything is published, and after each suspicion.

use futures::FutureExt;
use store::Causes;

use super::backoff::backoff;
use super::stream_check::{self, StreamCheckResult};
use super::tenant_relay::TenantRelay;
use super::{Relay, StreamCheck, TaskOutcome};
use crate::NatsError;

impl Relay {
    pub(super) fn suspect(&mut self) {
        self.stream = match self.stream {
            StreamCheck::Running | StreamCheck::RunningSuspected => StreamCheck::RunningSuspected,
            StreamCheck::Due | StreamCheck::Good => StreamCheck::Due,
        };
    }
    pub(super) fn check_stream(&mut self) {
        self.stream = StreamCheck::Running;
        let (store, nats, farthest) = (self.store.clone(), self.nats.clone(), self.farthest);
        let (key, checked_instance) = (self.key.clone(), self.checked_instance.clone());
        let acked = self
            .tenants
            .iter()
            .map(|(tenant, tenant_relay)| (*tenant, tenant_relay.log_id(), tenant_relay.acked_to()))
            .collect();
        let check = async move {
            TaskOutcome::Checked(
                stream_check::check(&store, &nats, &key, farthest, checked_instance, acked).await,
            )
        };
        self.work.push(check.boxed());
    }
    pub(super) fn stream_checked(&mut self, result: Result<StreamCheckResult, NatsError>) {
        let doubted = self.stream == StreamCheck::RunningSuspected;
        match result {
            Ok(StreamCheckResult { removed, database_instance, suspected, epochs_bumped }) => {
                self.check_failures = 0;
                if self.checked_instance.as_ref() != Some(&database_instance) {
                    // The known heads may belong to another database instance.
                    self.refresh_all();
                    self.checked_instance = Some(database_instance);
                }
                self.stream = if doubted { StreamCheck::Due } else { StreamCheck::Good };
                self.removed = removed;
                if epochs_bumped {
                    self.tenants.values_mut().for_each(TenantRelay::invalidate);
                    self.refresh_all();
                    self.stream = StreamCheck::Due;
                }
                if epochs_bumped || !suspected.is_empty() {
                    // The message may be among the lost ones.
                    self.farthest = None;
                }
                for tenant in std::mem::take(&mut self.suspected) {
                    if let Some(tenant_relay) = self.tenants.get_mut(&tenant) {
                        tenant_relay.unpause();
                    }
                    self.queue(tenant);
                }
                self.suspected = suspected
                    .into_iter()
                    .filter(|tenant| self.assignment.owns(*tenant) && !self.republishing.contains(tenant))
                    .collect();
            }
            Err(error) => {
                self.check_failures += 1;
                let wait = backoff(self.check_failures);
                if self.check_failures == 1 || !error.is_unavailable() {
                    tracing::warn!(error = %Causes(&error), "the relay waits for JetStream");
                }
                // The state stays `Running`, so that nothing is published until the next check.
                self.stream = StreamCheck::Running;
                self.work.push(tokio::time::sleep(wait).map(|()| TaskOutcome::CheckAgain).boxed());
            }
        }
    }
}
