//! Reads the progress of tenants with work, or of all tenants if what is known may be wrong.

use futures::FutureExt;
use schemas::engine::TenantId;
use store::{Causes, StoreError};

use super::progress::{self, RelayProgress};
use super::tenant_relay::TenantRelay;
use super::{Relay, TaskOutcome};

/// State of the reads of the progress.
pub(super) struct Refreshing {
    running: bool,
    /// Another read is wanted after the running one.
    again: bool,
    /// The next one reads the progress of all tenants, not only of those with work.
    all: bool,
}

impl Default for Refreshing {
    fn default() -> Self {
        Self { running: false, again: false, all: true }
    }
}

impl Relay {
    /// Reads the progress of all tenants, because others may have moved it or published.
    pub(super) fn refresh_all(&mut self) {
        self.refreshing.all = true;
        self.refresh();
    }

    /// Reads the progress of the tenants that are not at their head, and of those whose state is not valid.
    pub(super) fn refresh(&mut self) {
        if std::mem::replace(&mut self.refreshing.running, true) {
            self.refreshing.again = true;
            return;
        }
        let store = self.store.clone();
        let is_invalidated =
            |(tenant, relay): (&TenantId, &TenantRelay)| relay.is_invalidated().then_some(*tenant);
        let invalidated: Vec<TenantId> = self.tenants.iter().filter_map(is_invalidated).collect();
        let all = std::mem::take(&mut self.refreshing.all);
        self.work.push(
            async move {
                let read = if all {
                    progress::all(&store).await
                } else {
                    progress::outstanding(&store, &invalidated).await
                };
                TaskOutcome::Progress { all, result: read }
            }
            .boxed(),
        );
    }

    pub(super) fn progress_loaded(&mut self, all: bool, result: Result<Vec<RelayProgress>, StoreError>) {
        self.refreshing.running = false;
        match result {
            Ok(progress) => {
                let mut lag = 0;
                for row in self.within_heads(progress) {
                    let tenant = row.tenant;
                    lag += row.head.saturating_sub(row.acked);
                    match self.tenants.get_mut(&tenant) {
                        Some(tenant_relay) => tenant_relay.apply_progress(&row),
                        None => {
                            self.tenants.insert(tenant, TenantRelay::new(&row));
                        }
                    }
                    self.queue(tenant);
                }
                metrics::gauge!("annals_relay_lag_events").set(lag as f64);
            }
            Err(error) => {
                self.refreshing.all |= all;
                tracing::warn!(error = %Causes(&error), "the relay cannot read its progress");
            }
        }
        if std::mem::take(&mut self.refreshing.again) {
            self.refresh();
        }
    }
}
