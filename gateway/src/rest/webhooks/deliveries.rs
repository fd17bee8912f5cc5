//! What became of a webhook's events: the newest attempts, and deliveries that were given up, which are tried again or
//! discarded.

use schemas::engine::recorded::timestamp;
use store::webhooks::delivery::{Attempt, Failure};

use super::super::pages::page_of;
use super::{
    Caller, Commanding, Digits, ErrorCode, Gateway, IdempotencyKey, Json, Map, PageQuery, Path, Problem,
    Query, Response, State, StatusCode, Uuid, Value, clock, found, id_of, json,
};
use crate::rest::events::position;

/// `GET /v1/webhooks/{id}/deliveries`: the attempts, newest first.
pub(super) async fn attempts(
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<PageQuery<Uuid>>,
) -> Result<Json<Value>, Problem> {
    let (id, limit) = (id_of(&id)?, query.limit()?);
    let transaction = caller.store.begin_snapshot().await?;
    transaction.webhook(id).await?.ok_or(Problem::new(ErrorCode::NotFound))?;
    let attempts = transaction.webhook_attempts(id, query.after, limit as u32 + 1).await?;
    transaction.commit().await?;
    let shown = |attempt: &Attempt| {
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
    let (attempts, next) = page_of(attempts, limit, |attempt| attempt.id);
    Ok(Json(json!({ "deliveries": attempts.iter().map(shown).collect::<Vec<_>>(), "next_after": next })))
}

/// `GET /v1/webhooks/{id}/dead-letters`: the deliveries that were given up, by position.
pub(super) async fn dead_letters(
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<PageQuery<Digits>>,
) -> Result<Json<Value>, Problem> {
    let (id, limit) = (id_of(&id)?, query.limit()?);
    let after = query.after.map_or(0, |after| after.0);
    let transaction = caller.store.begin_snapshot().await?;
    transaction.webhook(id).await?.ok_or(Problem::new(ErrorCode::NotFound))?;
    let dead = transaction.dead_webhook_deliveries(id, after, limit as u32 + 1).await?;
    transaction.commit().await?;
    let shown = |letter: &Failure| {
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
    let (dead, next) = page_of(dead, limit, |letter| letter.position);
    Ok(Json(json!({ "dead_letters": dead.iter().map(shown).collect::<Vec<_>>(), "next_after": next })))
}

/// `POST /v1/webhooks/{id}/dead-letters/retry`: all of them are tried again.
pub(super) async fn retry_all(
    State(gateway): State<Gateway>,
    caller: Caller,
    key: IdempotencyKey,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    settle(gateway, caller, key, Settling::Retry, &id, None).await
}

/// `POST /v1/webhooks/{id}/dead-letters/{position}/retry`: one of them is.
pub(super) async fn retry_one(
    State(gateway): State<Gateway>,
    caller: Caller,
    key: IdempotencyKey,
    Path((id, at)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let at = position(&at).ok_or(Problem::new(ErrorCode::NotFound))?;
    settle(gateway, caller, key, Settling::Retry, &id, Some(at)).await
}

/// `DELETE /v1/webhooks/{id}/dead-letters`: all of them are discarded.
pub(super) async fn discard_all(
    State(gateway): State<Gateway>,
    caller: Caller,
    key: IdempotencyKey,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    settle(gateway, caller, key, Settling::Discard, &id, None).await
}

/// `DELETE /v1/webhooks/{id}/dead-letters/{position}`: one of them is.
pub(super) async fn discard_one(
    State(gateway): State<Gateway>,
    caller: Caller,
    key: IdempotencyKey,
    Path((id, at)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let at = position(&at).ok_or(Problem::new(ErrorCode::NotFound))?;
    settle(gateway, caller, key, Settling::Discard, &id, Some(at)).await
}

/// What becomes of dead letters.
#[derive(Debug, Clone, Copy)]
enum Settling {
    Retry,
    Discard,
}

/// All dead letters, or the one at a position.
async fn settle(
    gateway: Gateway,
    caller: Caller,
    key: IdempotencyKey,
    how: Settling,
    id: &str,
    at: Option<u64>,
) -> Result<Response, Problem> {
    let name = match how {
        Settling::Retry => "retry",
        Settling::Discard => "discard",
    };
    let command = Commanding::new(&gateway, &caller, key, &format!("{name} {id} {at:?}"), &Map::new());
    let transaction = caller.store.begin_projection().await?;
    if let Some(earlier) = command.earlier(&transaction).await? {
        return Ok(earlier);
    }
    let webhook = found(&transaction, id_of(id)?).await?;
    let settled = match how {
        Settling::Retry => transaction.retry_dead_webhook_deliveries(webhook.id, at, clock::now()).await?,
        Settling::Discard => transaction.discard_dead_webhook_deliveries(webhook.id, at).await?,
    };
    if at.is_some() && settled == 0 {
        return Err(Problem::new(ErrorCode::NotFound));
    }
    let (status, answer) = match how {
        Settling::Retry => (StatusCode::ACCEPTED, json!({ "retried": settled })),
        Settling::Discard => {
            tracing::info!(webhook = %webhook.id, discarded = settled, "dead letters were discarded");
            (StatusCode::OK, json!({ "discarded": settled }))
        }
    };
    command.answer(transaction, status, Some(answer)).await
}
