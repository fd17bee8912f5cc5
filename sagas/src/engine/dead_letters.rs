//! Retrying and discarding of dead letters of sagas and projections.

use schemas::engine::clock;
use store::{DeadLetterStatus, Store, StoreError};
use uuid::Uuid;

use super::rows;

/// Result of a request for a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryOutcome {
    /// It is being retried, from now on or already.
    Retrying,
    /// It was resolved or discarded earlier; nothing is retried.
    Settled(DeadLetterStatus),
    /// There is no such dead letter.
    NotFound,
}

/// Retries a dead letter. A step of a saga becomes pending again with all its attempts; a projection polls the status.
/// The dead letter is resolved when the retry succeeds.
///
/// # Errors
/// [`StoreError`] if the database fails.
pub async fn retry_dead_letter(store: &Store, id: Uuid) -> Result<RetryOutcome, StoreError> {
    let Some(letter) = store.dead_letter(id).await? else { return Ok(RetryOutcome::NotFound) };
    match letter.status {
        DeadLetterStatus::Resolved | DeadLetterStatus::Discarded => {
            return Ok(RetryOutcome::Settled(letter.status));
        }
        DeadLetterStatus::Retrying => return Ok(RetryOutcome::Retrying),
        DeadLetterStatus::Open => {}
    }
    let transaction = store.tenant(letter.tenant).begin_worker_transaction().await?;
    // Of two concurrent requests, one proceeds.
    let ours = transaction
        .execute(
            "update dead_letters set status = $3 where tenant_id = $1 and dead_letter_id = $2 and status = $4",
            &[
                &letter.tenant.0,
                &id,
                &DeadLetterStatus::Retrying.as_str(),
                &DeadLetterStatus::Open.as_str(),
            ],
        )
        .await?;
    if ours == 0 {
        return Ok(RetryOutcome::Retrying);
    }
    if let Some(process) = letter.consumer.strip_prefix("saga.") {
        let now = clock::now();
        let requeued = rows::requeue(&transaction, id, now).await?;
        if let (false, Some(event)) = (requeued, letter.event_id) {
            // The dead letter has no step: the reaction failed, so the reaction is retried.
            rows::insert_reaction(&transaction, process, event, letter.position, id, now).await?;
        }
    }
    transaction.commit().await?;
    Ok(RetryOutcome::Retrying)
}

/// Result of a request to discard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscardOutcome {
    /// It is discarded, from now on or already.
    Discarded,
    /// It was resolved earlier, or it is a step that is being retried.
    Settled(DeadLetterStatus),
    /// There is no such dead letter.
    NotFound,
}

/// Discards a dead letter. A projection skips the event. A step of a saga is closed, and the running saga records
/// `step_discarded` in the instance's stream.
///
/// # Errors
/// [`StoreError`] if the database fails.
pub async fn discard_dead_letter(store: &Store, id: Uuid) -> Result<DiscardOutcome, StoreError> {
    loop {
        let Some(letter) = store.dead_letter(id).await? else { return Ok(DiscardOutcome::NotFound) };
        let of_saga = letter.consumer.starts_with("saga.");
        match letter.status {
            DeadLetterStatus::Discarded => return Ok(DiscardOutcome::Discarded),
            // The step may take effect at any moment.
            DeadLetterStatus::Retrying if of_saga => return Ok(DiscardOutcome::Settled(letter.status)),
            DeadLetterStatus::Resolved => return Ok(DiscardOutcome::Settled(letter.status)),
            DeadLetterStatus::Open | DeadLetterStatus::Retrying => {}
        }
        let transaction = store.tenant(letter.tenant).begin_worker_transaction().await?;
        if !transaction.discard_dead_letter(id, letter.status).await? {
            // Another request has changed the status meanwhile.
            continue;
        }
        if of_saga {
            rows::discard(&transaction, id, clock::now()).await?;
        }
        transaction.commit().await?;
        return Ok(DiscardOutcome::Discarded);
    }
}
