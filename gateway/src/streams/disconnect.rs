//! Conditions that end a stream or an export: the process stops, or the right to read ends. For exports, which have no
//! hub reader, also the suspension of the tenant and the replacement of its log.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use schemas::engine::{LogId, TenantId, clock};
use store::{Causes, Store};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::disconnect_reason::DisconnectReason;
use super::hub::STATUS_POLL_INTERVAL;
use crate::auth::{Caller, Claims, ServiceTokens};

/// Waits for the end of the right to read. Cheap to clone.
#[derive(Clone)]
pub struct AccessWatch(Arc<AccessWatchState>);

struct AccessWatchState {
    service_tokens: ServiceTokens,
    stopping: CancellationToken,
}

impl AccessWatch {
    /// Every right to read ends when `stopping` is cancelled.
    pub fn new(service_tokens: ServiceTokens, stopping: CancellationToken) -> Self {
        Self(Arc::new(AccessWatchState { service_tokens, stopping }))
    }

    /// Waits until the process stops or the right to read ends. The right ends when the token expires or is revoked.
    pub async fn authorization_ended(
        self,
        expires_at: DateTime<Utc>,
        claims: Option<Arc<Claims>>,
    ) -> DisconnectReason {
        let left = (expires_at - clock::now()).to_std().unwrap_or_default();
        let revoked = async {
            match &claims {
                Some(claims) => self.0.service_tokens.wait_until_revoked(claims).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.0.stopping.cancelled() => DisconnectReason::Stopping,
            () = tokio::time::sleep(left) => DisconnectReason::TokenExpired,
            () = revoked => DisconnectReason::TokenRevoked,
        }
    }

    /// Waits until the caller may not read this log any longer. The end is counted in the metrics.
    pub async fn read_access_ended(self, caller: Caller, log_id: LogId) -> DisconnectReason {
        let (expires_at, tenant) = (caller.expires_at(), caller.record.id);
        let authorization = self.authorization_ended(expires_at, Some(caller.claims));
        let reason = tokio::select! {
            reason = authorization => reason,
            reason = log_access_ended(caller.store.store(), tenant, log_id) => reason,
        };
        metrics::counter!("annals_exports_closed_total", "code" => reason.as_str()).increment(1);
        reason
    }
}

/// Waits until the tenant is suspended or its log is replaced.
async fn log_access_ended(store: &Store, tenant: TenantId, log_id: LogId) -> DisconnectReason {
    let mut polls = tokio::time::interval_at(Instant::now() + STATUS_POLL_INTERVAL, STATUS_POLL_INTERVAL);
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        polls.tick().await;
        match store.tenant_statuses(&[tenant]).await.as_deref() {
            Ok([status]) if status.suspended => return DisconnectReason::TenantUnknown,
            Ok([status]) if status.log_id != log_id => return DisconnectReason::LogReplaced,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(error = %Causes(error), "the tenant of an open answer could not be looked at");
            }
        }
    }
}
