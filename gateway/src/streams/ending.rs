//! What ends an answer that goes on: the end of the process or of the right to read, and for those who follow no reader of
//! the hub, the hold of the tenant or another log.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use schemas::engine::{LogId, TenantId, clock};
use store::{Causes, Store};
use tokio::time::{Instant, MissedTickBehavior};

use super::closing::Closing;
use super::hub::LOOK;
use crate::auth::{Caller, Claims};
use crate::gateway::Gateway;

/// Ends when the process does, or the right to read: by its time, or because the token that showed it was taken back.
pub async fn right_ends(gateway: Gateway, expires_at: DateTime<Utc>, claims: Option<Arc<Claims>>) -> Closing {
    let left = (expires_at - clock::now()).to_std().unwrap_or_default();
    let revoked = async {
        match &claims {
            Some(claims) => gateway.service_tokens.revoked(claims).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = gateway.stopping.cancelled() => Closing::Stopping,
        () = tokio::time::sleep(left) => Closing::TokenExpired,
        () = revoked => Closing::TokenRevoked,
    }
}

/// Ends when the caller may not read this log any further, which is counted.
pub async fn reading_ends(gateway: Gateway, caller: Caller, log_id: LogId) -> Closing {
    let (store, tenant) = (gateway.store.clone(), caller.record.id);
    let right = right_ends(gateway, caller.expires_at(), Some(caller.claims));
    let why = tokio::select! {
        why = right => why,
        why = log_ends(&store, tenant, log_id) => why,
    };
    metrics::counter!("annals_exports_closed_total", "code" => why.as_str()).increment(1);
    why
}

/// Ends when the tenant is on hold or its log is another one.
async fn log_ends(store: &Store, tenant: TenantId, log_id: LogId) -> Closing {
    let mut looks = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        match store.standings(&[tenant]).await.as_deref() {
            Ok([standing]) if standing.suspended => return Closing::TenantUnknown,
            Ok([standing]) if standing.log_id != log_id => return Closing::LogReplaced,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(error = %Causes(error), "the tenant of an open answer could not be looked at");
            }
        }
    }
}
