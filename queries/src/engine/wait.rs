//! Read your writes: a read that waits until the read models behind it have reached a position.

use std::time::Duration;

use futures::future::try_join_all;
use store::{Checkpoint, ConsistencyToken, StoreError, TenantStore};

/// Maximum wait of a read.
pub const CONSISTENCY_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a read is not executed.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The token is forged, another tenant's, of another log, or beyond the head. Waiting would not help.
    #[error("the consistency token is not valid here")]
    Invalid,
    /// The read models have not reached the position in time.
    #[error("the read model has not reached the position in time")]
    Timeout,
    /// The store did not answer.
    #[error(transparent)]
    Unavailable(#[from] StoreError),
}

/// Waits until the named read models (by checkpoint: `projections::CUSTOMERS`) have reached the token's position, for at
/// most [`CONSISTENCY_TIMEOUT`].
///
/// # Errors
/// See [`WaitError`].
pub async fn wait_for(tenant: &TenantStore, token: &str, projections: &[&str]) -> Result<(), WaitError> {
    wait_at_most(tenant, token, projections, CONSISTENCY_TIMEOUT).await
}

/// [`wait_for`] with another limit of time.
///
/// # Errors
/// See [`WaitError`].
pub async fn wait_at_most(
    tenant: &TenantStore,
    token: &str,
    projections: &[&str],
    limit: Duration,
) -> Result<(), WaitError> {
    let token =
        ConsistencyToken::decode(tenant.store().key(), tenant.id(), token).map_err(|_| WaitError::Invalid)?;
    wait_until(tenant, Some(token), projections, limit).await
}

/// Waits until the named read models have reached the head that the log has now, for at most [`CONSISTENCY_TIMEOUT`].
///
/// # Errors
/// [`WaitError::Timeout`] and [`WaitError::Unavailable`].
pub async fn wait_for_head(tenant: &TenantStore, projections: &[&str]) -> Result<(), WaitError> {
    wait_until(tenant, None, projections, CONSISTENCY_TIMEOUT).await
}

async fn wait_until(
    tenant: &TenantStore,
    token: Option<ConsistencyToken>,
    projections: &[&str],
    limit: Duration,
) -> Result<(), WaitError> {
    let (head, checkpoints) = tenant.head_and_checkpoints(projections).await?;
    let position = match token {
        Some(token) if head.log_id != token.log_id || token.position > head.position => {
            return Err(WaitError::Invalid);
        }
        Some(token) => token.position,
        None => head.position,
    };
    let reached =
        |at: &Option<Checkpoint>| at.is_some_and(|at| at.log_id == head.log_id && at.position >= position);
    let behind = projections.iter().zip(&checkpoints).filter(|(_, at)| !reached(at));
    let waits =
        behind.map(|(projection, _)| tenant.wait_for_checkpoint(projection, head.log_id, position, limit));
    let reached = try_join_all(waits).await?;
    if reached.into_iter().all(|reached| reached) { Ok(()) } else { Err(WaitError::Timeout) }
}
