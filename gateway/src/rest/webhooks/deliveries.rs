//! The deliveries of a webhook: the newest attempts, and dead letters that can be retried or discarded.

use axum::Json;
use axum::http::StatusCode;
use axum::response::Response;
use schemas::engine::clock;
use schemas::engine::recorded::timestamp;
use serde_json::{Value, json};
use uuid::Uuid;
use webhooks::attempts::{self, DeliveryAttempt};
use webhooks::failures::{self, FailedDelivery};
use webhooks::registry;

use crate::auth::Caller;
use crate::http::idempotency::WriteTransaction;
use crate::http::path::parse_id;
use crate::http::{Digits, ErrorCode, Path, Problem, Query};
use crate::rest::events::position;
use crate::rest::pages::{CursorQuery, split_page};

/// `GET /v1/webhooks/{id}/deliveries`: the attempts, newest first.
pub(super) async fn attempts(
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<CursorQuery<Uuid>>,
) -> Result<Json<Value>, Problem> {
    let (id, limit) = (parse_id(&id)?, query.limit()?);
    let transaction = caller.store.begin_snapshot().await?;
    registry::find(&transaction, id).await?.ok_or(Problem::new(ErrorCode::NotFound))?;
    let attempts = attempts::page(&transaction, id, query.after, limit as u32 + 1).await?;
    transaction.commit().await?;
    let shown = |attempt: &DeliveryAttempt| {
        json!({
            "id": attempt.id,
            "position": attempt.position,
            "event_id": attempt.event_id,
            "event_type": attempt.event_type,
            "attempt": attempt.number,
            "outcome": if attempt.error.is_none() { "succeeded" } else { "failed" },
            "http_status": attempt.http_status,
            "error": attempt.error,
            "duration_ms": attempt.millis,
            "at": timestamp(attempt.at),
        })
    };
    let (attempts, next) = split_page(attempts, limit, |attempt| attempt.id);
    Ok(Json(json!({ "deliveries": attempts.iter().map(shown).collect::<Vec<_>>(), "next_after": next })))
}

/// `GET /v1/webhooks/{id}/dead-letters`: the dead letters, ordered by position.
pub(super) async fn dead_letters(
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<CursorQuery<Digits>>,
) -> Result<Json<Value>, Problem> {
    let (id, limit) = (parse_id(&id)?, query.limit()?);
    let after = query.after.map_or(0, |after| after.0);
    let transaction = caller.store.begin_snapshot().await?;
    registry::find(&transaction, id).await?.ok_or(Problem::new(ErrorCode::NotFound))?;
    let dead = failures::dead(&transaction, id, after, limit as u32 + 1).await?;
    transaction.commit().await?;
    let shown = |letter: &FailedDelivery| {
        json!({
            "position": letter.position,
            "event_id": letter.event_id,
            "event_type": letter.event_type,
            "attempts": letter.attempts,
            "error": letter.error,
            "first_at": timestamp(letter.first_at),
            "last_at": timestamp(letter.last_at),
        })
    };
    let (dead, next) = split_page(dead, limit, |letter| letter.position);
    Ok(Json(json!({ "dead_letters": dead.iter().map(shown).collect::<Vec<_>>(), "next_after": next })))
}

/// `POST /v1/webhooks/{id}/dead-letters/retry`: retries all dead letters.
pub(super) async fn retry_all(write: WriteTransaction, Path(id): Path<String>) -> Result<Response, Problem> {
    resolve_dead_letters(write, DeadLetterAction::Retry, &id, None).await
}

/// `POST /v1/webhooks/{id}/dead-letters/{position}/retry`: retries one dead letter.
pub(super) async fn retry_one(
    write: WriteTransaction,
    Path((id, at)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let at = position(&at).ok_or(Problem::new(ErrorCode::NotFound))?;
    resolve_dead_letters(write, DeadLetterAction::Retry, &id, Some(at)).await
}

/// `DELETE /v1/webhooks/{id}/dead-letters`: discards all dead letters.
pub(super) async fn discard_all(
    write: WriteTransaction,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    resolve_dead_letters(write, DeadLetterAction::Discard, &id, None).await
}

/// `DELETE /v1/webhooks/{id}/dead-letters/{position}`: discards one dead letter.
pub(super) async fn discard_one(
    write: WriteTransaction,
    Path((id, at)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let at = position(&at).ok_or(Problem::new(ErrorCode::NotFound))?;
    resolve_dead_letters(write, DeadLetterAction::Discard, &id, Some(at)).await
}

/// What to do with dead letters.
#[derive(Debug, Clone, Copy)]
enum DeadLetterAction {
    Retry,
    Discard,
}

/// Retries or discards all dead letters, or the one at a position.
async fn resolve_dead_letters(
    write: WriteTransaction,
    action: DeadLetterAction,
    id: &str,
    at: Option<u64>,
) -> Result<Response, Problem> {
    let transaction = write.transaction();
    let webhook =
        registry::lock(transaction, parse_id(id)?).await?.ok_or(Problem::new(ErrorCode::NotFound))?;
    let resolved = match action {
        DeadLetterAction::Retry => failures::retry_dead(transaction, webhook.id, at, clock::now()).await?,
        DeadLetterAction::Discard => failures::discard_dead(transaction, webhook.id, at).await?,
    };
    if at.is_some() && resolved == 0 {
        return Err(Problem::new(ErrorCode::NotFound));
    }
    let (status, answer) = match action {
        DeadLetterAction::Retry => (StatusCode::ACCEPTED, json!({ "retried": resolved })),
        DeadLetterAction::Discard => {
            tracing::info!(webhook = %webhook.id, discarded = resolved, "dead letters were discarded");
            (StatusCode::OK, json!({ "discarded": resolved }))
        }
    };
    write.answer(status, Some(answer)).await
}
