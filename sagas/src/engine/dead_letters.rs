//! Dead letters: what an operator sees of a step that was refused to the last, how it gets another try, and how the
//! others go on without it.

use schemas::engine::clock;
use store::{DeadLetterStatus, Store, StoreError};
use uuid::Uuid;

use super::rows;

/// What asking for another try came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryOutcome {
    /// It is being tried again, from now on or already.
    Retrying,
    /// It was settled before; nothing is tried.
    Settled(DeadLetterStatus),
    /// There is no such dead letter.
    NotFound,
}

/// Gives what stands in a dead letter another try. A saga's step becomes pending again, with all its attempts before it;
/// a projection looks at the letter's status by itself. The letter is resolved when the other try succeeds.
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
    // Of two who ask at once one goes on.
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
            // No step stands behind the letter: the reaction itself failed, so that is what is tried again.
            rows::insert_reaction(&transaction, process, event, letter.position, id, now).await?;
        }
    }
    transaction.commit().await?;
    Ok(RetryOutcome::Retrying)
}

/// What asking to go on without it came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscardOutcome {
    /// It is discarded, from now on or already.
    Discarded,
    /// It was resolved before, or is a step that is being tried again.
    Settled(DeadLetterStatus),
    /// There is no such dead letter.
    NotFound,
}

/// Goes on without what stands in a dead letter. A projection passes the event over; a saga's step is closed, which the
/// instance's stream tells as `step_discarded` as soon as the sagas run.
pub async fn discard_dead_letter(store: &Store, id: Uuid) -> Result<DiscardOutcome, StoreError> {
    loop {
        let Some(letter) = store.dead_letter(id).await? else { return Ok(DiscardOutcome::NotFound) };
        let of_saga = letter.consumer.starts_with("saga.");
        match letter.status {
            DeadLetterStatus::Discarded => return Ok(DiscardOutcome::Discarded),
            // A step in hand may take effect at any moment.
            DeadLetterStatus::Retrying if of_saga => return Ok(DiscardOutcome::Settled(letter.status)),
            DeadLetterStatus::Resolved => return Ok(DiscardOutcome::Settled(letter.status)),
            DeadLetterStatus::Open | DeadLetterStatus::Retrying => {}
        }
        let transaction = store.tenant(letter.tenant).begin_worker_transaction().await?;
        if !transaction.discard_dead_letter(id, letter.status).await? {
            // Somebody else has decided meanwhile.
            continue;
        }
        if of_saga {
            rows::discard(&transaction, id, clock::now()).await?;
        }
        transaction.commit().await?;
        return Ok(DiscardOutcome::Discarded);
    }
}
