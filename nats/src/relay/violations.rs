//! What the relay does when data of a tenant break a rule that always holds: it stops this tenant, and the others
//! continue.

use futures::FutureExt;
use schemas::engine::TenantId;
use store::{Invariant, VIOLATION_RETRY_INTERVAL};

use super::progress::RelayProgress;
use super::{Relay, TaskOutcome};

impl Relay {
    /// Neither publishes nor republishes a tenant for the time of [`VIOLATION_RETRY_INTERVAL`].
    pub(super) fn stop_tenant(&mut self, tenant: TenantId) {
        if let Some(tenant_relay) = self.tenants.get_mut(&tenant) {
            tenant_relay.stop();
        }
        let pause = tokio::time::sleep(VIOLATION_RETRY_INTERVAL);
        self.work.push(pause.map(move |()| TaskOutcome::BackoffElapsed(tenant)).boxed());
    }

    /// The progress without tenants whose acknowledged position is or was beyond the head of the log.
    /// Their progress is not used until it is another, so such a tenant stops with its next move.
    pub(super) fn within_heads(&mut self, mut progress: Vec<RelayProgress>) -> Vec<RelayProgress> {
        progress.retain(|row| {
            let RelayProgress { tenant, acked, head, .. } = *row;
            let refused = self.refused.get(&tenant) == Some(&acked);
            if acked <= head && !refused {
                self.refused.remove(&tenant);
                return true;
            }
            if !refused {
                self.refused.insert(tenant, acked);
                self.store.violation(tenant, Invariant::CheckpointWithinHead, acked);
            }
            false
        });
        progress
    }
}
