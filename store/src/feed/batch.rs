//! One batch of a tenant: its events, from the buffer or from the log, and what the consumer makes of them.

use schemas::engine::{LogId, TenantId};

use super::cursor::CursorBatch;
use super::{Batch, BatchOutcome, Consumer};
use crate::invariants::first_gap;
use crate::{Checkpoint, Head, Invariant, LogFilter, Store, StoreError, TenantStore};

/// The progress of one batch of a tenant.
pub(super) enum BatchProgress {
    /// The checkpoint is at this position of this log.
    At(LogId, u64),
    /// The events up to this position of this log have no effect. The checkpoint is at `stored` or later.
    Unaffected {
        log_id: LogId,
        stored: u64,
        position: u64,
    },
    /// Another process works on this tenant.
    Conflict,
    Stopped,
    Paused,
}

/// Processes one batch: reads the checkpoint if it is unknown, then takes buffered events or reads the log.
pub(super) async fn process_batch<C: Consumer>(
    store: &Store,
    consumer: &C,
    tenant: TenantId,
    prepared: CursorBatch,
    limit: usize,
) -> Result<BatchProgress, StoreError> {
    if consumer.is_paused(tenant).await? {
        return Ok(BatchProgress::Paused);
    }
    let handle = store.tenant(tenant);
    let (stored, from) = if let Some(position) = prepared.checkpoint {
        (prepared.stored, position)
    } else {
        let stored = look_up_checkpoint(&handle, consumer.name(), prepared.refused).await?;
        (stored, stored)
    };
    let batch = if let Some((log_id, events)) = prepared.events_after(from) {
        Batch { tenant, log_id, events }
    } else {
        let page = handle.read_log_page(from, None, limit, &LogFilter::default()).await?;
        Batch { tenant, log_id: page.log_id, events: page.events }
    };
    let Some(last) = batch.events.last().map(|event| event.position) else {
        let log_id = batch.log_id;
        return Ok(if stored == from {
            BatchProgress::At(log_id, from)
        } else {
            BatchProgress::Unaffected { log_id, stored, position: from }
        });
    };
    if let Some(gap) = first_gap(from, batch.events.iter().map(|event| event.position)) {
        return Err(handle.violation(Invariant::LogPositions, gap));
    }
    let log_id = batch.log_id;
    if !batch.events.iter().any(|event| consumer.concerns(event)) {
        return Ok(BatchProgress::Unaffected { log_id, stored, position: last });
    }
    let batch = if consumer.reads_personal_data() {
        Batch { events: handle.open(batch.events).await?, ..batch }
    } else {
        batch
    };
    match consumer.handle(stored, batch).await? {
        BatchOutcome::Advanced(position) => {
            store.announce_checkpoint(consumer.name(), tenant, position);
            Ok(BatchProgress::At(log_id, position))
        }
        BatchOutcome::Unaffected(position) => Ok(BatchProgress::Unaffected { log_id, stored, position }),
        BatchOutcome::Conflict => Ok(BatchProgress::Conflict),
        BatchOutcome::Stopped => Ok(BatchProgress::Stopped),
    }
}

/// The position of a consumer's checkpoint; 0 before its first move.
///
/// # Errors
/// A violation if the checkpoint is beyond the head, or if it is the one that was.
async fn look_up_checkpoint(
    tenant: &TenantStore,
    consumer: &str,
    refused: Option<u64>,
) -> Result<u64, StoreError> {
    let transaction = tenant.begin_worker_transaction().await?;
    let Some(checkpoint) = transaction.checkpoint(consumer).await? else {
        transaction.commit().await?;
        return Ok(0);
    };
    // The head is read later, so it is at least as new.
    let head = transaction.head().await?;
    transaction.commit().await?;
    if is_beyond(checkpoint, &head) || refused == Some(checkpoint.position) {
        return Err(tenant.violation(Invariant::CheckpointWithinHead, checkpoint.position));
    }
    Ok(checkpoint.position)
}

/// Whether a checkpoint is beyond the head of its log. A checkpoint of a replaced log has another head.
pub(super) fn is_beyond(checkpoint: Checkpoint, head: &Head) -> bool {
    checkpoint.log_id == head.log_id && checkpoint.position > head.position
}
