//! Refills one tenant's part of the stream: compares what it holds with what was acknowledged, and publishes exactly what
//! is missing, in order, under message ids of a raised generation.
//!
//! The tenant's ordinary publishing rests meanwhile. Until the end is noted in PostgreSQL the tenant stays in doubt, so a
//! relay that dies in between is followed by another comparison.

use std::time::Duration;

use schemas::engine::TenantId;
use store::{RelayMark, RelayProgress, Store, StoreError};
use tokio::sync::Semaphore;

use super::page::{PublishFailure, send};
use super::ranges::Ranges;
use super::{PAGE, copy};
use crate::message::MessageKey;
use crate::{Nats, NatsError};

/// How often a part is tried before the tenant has to wait for the next look.
const TRIES: u32 = 4;
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// Why a refill ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum RefillFailure {
    #[error(transparent)]
    Nats(#[from] NatsError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Publish(#[from] PublishFailure),
    #[error("another relay is at it")]
    Overtaken,
    #[error("given up")]
    GivenUp(#[from] tokio::task::JoinError),
}

/// Compares and refills. Returns how many events were missing.
pub(super) async fn refill(
    store: &Store,
    nats: &Nats,
    key: &MessageKey,
    in_flight: &Semaphore,
    tenant: TenantId,
) -> Result<u64, RefillFailure> {
    let Some(before) = store.relay_progress_of(tenant).await? else { return Ok(0) };
    let stream = nats.event_stream().await?;
    let removed = copy::removed(&stream);
    if before.acked == 0 || before.removed == Some(removed) {
        return Ok(0);
    }
    let held = copy::held(nats, key, &before.slug, before.log_id, stream.state.last_sequence).await?;
    let missing = held.positions.missing(before.acked);
    let count = missing.count();
    metrics::counter!("annals_relay_republished_total").increment(count);
    if missing.is_empty() {
        return ended(store.end_refill(&before, removed, held.last).await?, 0);
    }
    tracing::warn!(%tenant, missing = count, "events have left the stream; they are published again");
    if let Some(first) = missing.tail_up_to(before.acked) {
        // What is missing at the end goes the ordinary way, which remembers how far it came.
        let raised = store.begin_refill(&before, first - 1).await?.ok_or(RefillFailure::Overtaken)?;
        return ended(store.end_refill(&raised, removed, held.last).await?, count);
    }
    let raised = store.begin_refill(&before, before.acked).await?.ok_or(RefillFailure::Overtaken)?;
    let mark = publish(store, nats, key, in_flight, &raised, &missing).await?;
    ended(store.end_refill(&raised, removed, held.last.farther(mark)).await?, count)
}

fn ended(noted: bool, count: u64) -> Result<u64, RefillFailure> {
    if noted { Ok(count) } else { Err(RefillFailure::Overtaken) }
}

/// Publishes these positions; returns where the last of them stands.
async fn publish(
    store: &Store,
    nats: &Nats,
    key: &MessageKey,
    in_flight: &Semaphore,
    progress: &RelayProgress,
    missing: &Ranges,
) -> Result<RelayMark, RefillFailure> {
    let mut farthest = RelayMark::default();
    let mut positions = missing.positions();
    loop {
        let part: Vec<u64> = positions.by_ref().take(PAGE).collect();
        if part.is_empty() {
            return Ok(farthest);
        }
        let permits = u32::try_from(part.len()).unwrap_or(u32::MAX);
        let _share = in_flight.acquire_many(permits).await.expect("the semaphore is never closed");
        let events = store.relay_events_at(progress.tenant, progress.log_id, &part).await?;
        if events.len() != part.len() {
            return Err(StoreError::Corrupt("the log lacks events that were published".to_owned()).into());
        }
        let mut tries = 1;
        loop {
            let sent = send(nats, key, &progress.slug, progress.generation, &events).await;
            farthest = farthest.farther(sent.mark);
            match sent.failure {
                None => break,
                Some(failure) if tries == TRIES => return Err(failure.into()),
                Some(_) => tokio::time::sleep(TRY_AGAIN * tries).await,
            }
            tries += 1;
        }
    }
}
