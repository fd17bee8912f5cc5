//! Republishes one tenant's events: compares the stream with the acknowledged positions, and publishes exactly the
//! missing events, in order, under message ids of a raised stream epoch.
//!
//! The tenant's ordinary publishing is paused meanwhile.
//! Until PostgreSQL stores that the republish has ended, the tenant stays suspected.
//! So if a relay stops in between, the next one compares again.

use std::collections::HashSet;
use std::time::Duration;

use schemas::engine::{RecordedEvent, TenantId};
use store::{Invariant, Store, StoreError};
use tokio::sync::Semaphore;

use super::page::{PAGE_SIZE_MAX, PublishError, send};
use super::position_ranges::PositionRanges;
use super::progress::{self, AckedMessage, RelayProgress};
use super::stream_reader;
use crate::message::MessageKey;
use crate::{Nats, NatsError};

/// How often a republish is attempted. Afterwards the tenant waits for the next stream check.
const ATTEMPTS_MAX: u32 = 4;
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// Why a republish ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum RepublishError {
    #[error(transparent)]
    Nats(#[from] NatsError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("another relay is at it")]
    Superseded,
    #[error("given up")]
    Aborted(#[from] tokio::task::JoinError),
}

impl RepublishError {
    /// Whether data of the tenant break a rule that always holds.
    pub(super) fn is_violation(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_violation())
    }
}

/// Compares and republishes. Returns how many events were missing.
pub(super) async fn republish(
    store: &Store,
    nats: &Nats,
    key: &MessageKey,
    in_flight: &Semaphore,
    tenant: TenantId,
) -> Result<u64, RepublishError> {
    let Some(before) = progress::of(store, tenant).await? else { return Ok(0) };
    let stream = nats.event_stream().await?;
    let removed = stream_reader::removed_count(&stream);
    if before.acked == 0 || before.removed == Some(removed) {
        return Ok(0);
    }
    let content = stream_reader::read_tenant_content(
        nats,
        key,
        &before.slug,
        before.log_id,
        stream.state.last_sequence,
    )
    .await?;
    let missing = content.positions.missing(before.acked);
    let count = missing.count();
    metrics::counter!("annals_relay_republished_total").increment(count);
    if missing.is_empty() {
        return finish(progress::end_republish(store, &before, removed, content.last).await?, 0);
    }
    tracing::warn!(%tenant, missing = count, "events have left the stream; they are published again");
    if let Some(first) = missing.tail_up_to(before.acked) {
        // If only the end is missing, ordinary publishing sends it, because it stores its progress.
        let raised =
            progress::begin_republish(store, &before, first - 1).await?.ok_or(RepublishError::Superseded)?;
        return finish(progress::end_republish(store, &raised, removed, content.last).await?, count);
    }
    let raised =
        progress::begin_republish(store, &before, before.acked).await?.ok_or(RepublishError::Superseded)?;
    let acked_message = publish(store, nats, key, in_flight, &raised, &missing).await?;
    finish(progress::end_republish(store, &raised, removed, content.last.later(acked_message)).await?, count)
}

fn finish(noted: bool, count: u64) -> Result<u64, RepublishError> {
    if noted { Ok(count) } else { Err(RepublishError::Superseded) }
}

/// Publishes these positions. Returns the stream position of the last one.
async fn publish(
    store: &Store,
    nats: &Nats,
    key: &MessageKey,
    in_flight: &Semaphore,
    progress: &RelayProgress,
    missing: &PositionRanges,
) -> Result<AckedMessage, RepublishError> {
    let mut farthest = AckedMessage::default();
    let mut positions = missing.positions();
    loop {
        let part: Vec<u64> = positions.by_ref().take(PAGE_SIZE_MAX).collect();
        if part.is_empty() {
            return Ok(farthest);
        }
        let permits = u32::try_from(part.len()).unwrap_or(u32::MAX);
        let _share = in_flight.acquire_many(permits).await.expect("the semaphore is never closed");
        let events = store.relay_events_at(progress.tenant, progress.log_id, &part).await?;
        if events.len() != part.len() {
            return Err(lacking(store, progress, &part, &events).await);
        }
        let mut tries = 1;
        loop {
            let sent = send(nats, key, &progress.slug, progress.stream_epoch, &events).await;
            farthest = farthest.later(sent.acked_message);
            match sent.failure {
                None => break,
                Some(failure) if tries == ATTEMPTS_MAX => return Err(failure.into()),
                Some(_) => tokio::time::sleep(RETRY_DELAY * tries).await,
            }
            tries += 1;
        }
    }
}

/// Why the log lacks some of these positions: it was replaced, it was restored to an earlier state, or it has a gap.
async fn lacking(
    store: &Store,
    progress: &RelayProgress,
    wanted: &[u64],
    found: &[RecordedEvent],
) -> RepublishError {
    let found: HashSet<u64> = found.iter().map(|event| event.position).collect();
    let position = wanted.iter().find(|position| !found.contains(position)).copied().unwrap_or_default();
    match progress::of(store, progress.tenant).await {
        Ok(Some(now)) if now.log_id == progress.log_id && position <= now.head => {
            store.violation(progress.tenant, Invariant::LogPositions, position).into()
        }
        Ok(_) => RepublishError::Superseded,
        Err(error) => error.into(),
    }
}
