//! `/v1/webhooks`: endpoints that receive a tenant's events, managed by its administrators.
//!
//! Layout: `body` parses and shows webhooks; `deliveries` has attempts and dead letters.

mod body;
mod deliveries;

use access::policy::TENANT_ADMINISTER;
use axum::Json;
use axum::extract::State;
use axum::http::Method;
use axum::http::StatusCode;
use axum::response::Response;
use schemas::engine::{InvalidValue, clock, ids};
use serde_json::{Value, json};
use store::requests::AnswerRetention;
use store::{Store, TenantStore, TenantTransaction};
use uuid::Uuid;
use webhooks::secret::SigningSecret;
use webhooks::{Disabled, DisabledReason, Ordering, Webhook, failures, registry};

use self::body::{WebhookChanges, webhook_json, webhook_json_with_secret};
use super::pages::{CursorQuery, split_page};
use crate::auth::Caller;
use crate::config::WebhookRules;
use crate::http::idempotency::WriteTransaction;
use crate::http::path::parse_id;
use crate::http::route::{AuditRule, Route};
use crate::http::{ErrorCode, JsonBody, Path, Problem, Query, RequestContext};
use crate::routes::Routes;

/// Maximum webhooks of one tenant.
const WEBHOOKS_PER_TENANT_MAX: u64 = 100;
/// How long the old secret still signs after a rotation.
const SECRET_ROTATION_OVERLAP: std::time::Duration = std::time::Duration::from_hours(24);

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    let read = |path| Route::get(path, &TENANT_ADMINISTER);
    let write = |method, path| {
        Route::locked_write(method, path, &TENANT_ADMINISTER).stored(AnswerRetention::Permanent)
    };
    let secret = |method, path| {
        Route::credential_change(method, path, &TENANT_ADMINISTER).stored(AnswerRetention::Secret)
    };
    routes
        .add(read("/v1/webhooks"), list)
        .add(secret(Method::POST, "/v1/webhooks"), register)
        .add(read("/v1/webhooks/{id}"), show)
        .add(write(Method::PATCH, "/v1/webhooks/{id}"), change)
        .add(write(Method::DELETE, "/v1/webhooks/{id}").with_audit(AuditRule::CredentialChange), remove)
        .add(secret(Method::POST, "/v1/webhooks/{id}/rotate-secret"), rotate_secret)
        .add(write(Method::POST, "/v1/webhooks/{id}/replay"), replay)
        .add(write(Method::POST, "/v1/webhooks/{id}/enable"), enable)
        .add(read("/v1/webhooks/{id}/deliveries"), deliveries::attempts)
        .add(read("/v1/webhooks/{id}/dead-letters"), deliveries::dead_letters)
        .add(write(Method::DELETE, "/v1/webhooks/{id}/dead-letters"), deliveries::discard_all)
        .add(write(Method::POST, "/v1/webhooks/{id}/dead-letters/retry"), deliveries::retry_all)
        .add(write(Method::DELETE, "/v1/webhooks/{id}/dead-letters/{position}"), deliveries::discard_one)
        .add(write(Method::POST, "/v1/webhooks/{id}/dead-letters/{position}/retry"), deliveries::retry_one)
}

async fn load_for_update(transaction: &TenantTransaction, id: Uuid) -> Result<Webhook, Problem> {
    registry::lock(transaction, id).await?.ok_or(Problem::new(ErrorCode::NotFound))
}

async fn list(caller: Caller, Query(query): Query<CursorQuery<Uuid>>) -> Result<Json<Value>, Problem> {
    let limit = query.limit()?;
    let transaction = caller.store.begin().await?;
    let webhooks = registry::page(&transaction, query.after, limit as u32 + 1).await?;
    transaction.commit().await?;
    let (webhooks, next) = split_page(webhooks, limit, |webhook| webhook.id);
    Ok(Json(json!({ "webhooks": webhooks.iter().map(webhook_json).collect::<Vec<_>>(), "next_after": next })))
}

async fn show(caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let transaction = caller.store.begin().await?;
    let webhook = registry::find(&transaction, parse_id(&id)?).await?;
    transaction.commit().await?;
    Ok(Json(webhook_json(&webhook.ok_or(Problem::new(ErrorCode::NotFound))?)))
}

async fn register(
    State(rules): State<WebhookRules>,
    State(store): State<Store>,
    request: RequestContext,
    caller: Caller,
    write: WriteTransaction,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let transaction = write.transaction();
    let registered = WebhookChanges::for_new(body, rules.allow_private_addresses)?;
    if registry::count(transaction).await? >= WEBHOOKS_PER_TENANT_MAX {
        return Err(Problem::new(ErrorCode::Invalid)
            .detail(format!("a tenant may have at most {WEBHOOKS_PER_TENANT_MAX} webhooks")));
    }
    let head = transaction.head().await?;
    let now = clock::now();
    let (id, secret) = (ids::new_id(), SigningSecret::generate());
    let webhook = Webhook {
        id,
        url: registered.url.unwrap_or_default(),
        types: registered.types.unwrap_or_default(),
        description: registered.description.unwrap_or_default(),
        ordering: registered.ordering.unwrap_or(Ordering::InOrder),
        personal_data: registered.personal_data.unwrap_or(false),
        disabled: None,
        secret: secret.seal(store.key(), caller.record.id, id).into(),
        old_secret: None,
        log_id: head.log_id,
        position: check_position(registered.after, head.position)?.unwrap_or(head.position),
        epoch: 0,
        held: false,
        retry_at: None,
        failing_since: None,
        created_at: now,
        updated_at: now,
    };
    registry::put(transaction, &webhook).await?;
    request.set_subject(id.to_string());
    write.answer(StatusCode::CREATED, Some(webhook_json_with_secret(&webhook, &secret))).await
}

/// Checks that a position is not beyond the head of the log.
fn check_position(after: Option<u64>, head: u64) -> Result<Option<u64>, Problem> {
    if after.is_some_and(|after| after > head) {
        let problem = InvalidValue::new("position_beyond_head", format!("the log ends at {head}"));
        return Err(Problem::invalid_field("after", problem));
    }
    Ok(after)
}

async fn change(
    State(rules): State<WebhookRules>,
    caller: Caller,
    write: WriteTransaction,
    Path(id): Path<String>,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let transaction = write.transaction();
    let changes = WebhookChanges::for_existing(body, rules.allow_private_addresses)?;
    let mut webhook = load_for_update(transaction, parse_id(&id)?).await?;
    webhook.url = changes.url.unwrap_or(webhook.url);
    webhook.types = changes.types.unwrap_or(webhook.types);
    webhook.description = changes.description.unwrap_or(webhook.description);
    webhook.ordering = changes.ordering.unwrap_or(webhook.ordering);
    webhook.personal_data = changes.personal_data.unwrap_or(webhook.personal_data);
    match changes.enabled {
        Some(true) if webhook.disabled.is_some() => {
            enable_webhook(rules, &caller.store, transaction, &mut webhook).await?;
        }
        Some(false) if webhook.disabled.is_none() => {
            webhook.disabled = Some(Disabled { reason: DisabledReason::ByRequest, at: clock::now() });
        }
        _ => {}
    }
    save_webhook(transaction, &mut webhook).await?;
    write.answer(StatusCode::OK, Some(webhook_json(&webhook))).await
}

/// Writes a changed webhook. Its epoch grows, so running deliveries become stale.
async fn save_webhook(transaction: &TenantTransaction, webhook: &mut Webhook) -> Result<(), Problem> {
    webhook.epoch += 1;
    webhook.updated_at = clock::now();
    Ok(registry::put(transaction, webhook).await?)
}

/// Enables a webhook again. If its log was replaced, it continues after the last position that both logs share. If that
/// is unknown, it continues at the head of the new log.
async fn enable_webhook(
    rules: WebhookRules,
    handle: &TenantStore,
    transaction: &TenantTransaction,
    webhook: &mut Webhook,
) -> Result<(), Problem> {
    webhook.disabled = None;
    webhook.failing_since = None;
    let head = transaction.head().await?;
    if head.log_id != webhook.log_id {
        let replaced = handle.replaced_log(webhook.log_id).await?;
        let replaced = replaced.filter(|replaced| replaced.next_log_id == head.log_id);
        let kept = replaced.map(|replaced| replaced.last_position);
        webhook.log_id = head.log_id;
        webhook.position = kept.map_or(head.position, |kept| webhook.position.min(kept));
        failures::delete_after(transaction, webhook.id, kept.unwrap_or(0)).await?;
    }
    let dead = failures::count_dead(transaction, webhook.id).await?;
    if dead >= rules.max_dead_letters_per_endpoint {
        let detail = format!("{dead} dead letters wait: retry, discard or replay them first");
        return Err(Problem::new(ErrorCode::Invalid).detail(detail));
    }
    Ok(())
}

async fn remove(write: WriteTransaction, Path(id): Path<String>) -> Result<Response, Problem> {
    let transaction = write.transaction();
    let webhook = load_for_update(transaction, parse_id(&id)?).await?;
    registry::delete(transaction, webhook.id).await?;
    write.answer(StatusCode::NO_CONTENT, None).await
}

async fn rotate_secret(
    State(store): State<Store>,
    caller: Caller,
    write: WriteTransaction,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let transaction = write.transaction();
    let mut webhook = load_for_update(transaction, parse_id(&id)?).await?;
    let secret = SigningSecret::generate();
    let sealed = secret.seal(store.key(), caller.record.id, webhook.id).into();
    let old = std::mem::replace(&mut webhook.secret, sealed);
    webhook.old_secret = Some((old, clock::now() + SECRET_ROTATION_OVERLAP));
    save_webhook(transaction, &mut webhook).await?;
    write.answer(StatusCode::OK, Some(webhook_json_with_secret(&webhook, &secret))).await
}

async fn replay(
    write: WriteTransaction,
    Path(id): Path<String>,
    JsonBody(mut body): JsonBody,
) -> Result<Response, Problem> {
    let transaction = write.transaction();
    let after = body.position("after");
    if body.values().is_empty() && after.is_none() {
        body.add_error("after", InvalidValue::new("required", "must be given"));
    }
    let after = body.finish(|| after)?;
    let mut webhook = load_for_update(transaction, parse_id(&id)?).await?;
    let head = transaction.head().await?;
    check_position(Some(after), head.position)?;
    let discard_up_to = if head.log_id == webhook.log_id { after } else { 0 };
    failures::delete_after(transaction, webhook.id, discard_up_to).await?;
    (webhook.log_id, webhook.position) = (head.log_id, after);
    save_webhook(transaction, &mut webhook).await?;
    write.answer(StatusCode::ACCEPTED, Some(webhook_json(&webhook))).await
}

async fn enable(
    State(rules): State<WebhookRules>,
    caller: Caller,
    write: WriteTransaction,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let transaction = write.transaction();
    let mut webhook = load_for_update(transaction, parse_id(&id)?).await?;
    if webhook.disabled.is_some() {
        enable_webhook(rules, &caller.store, transaction, &mut webhook).await?;
        save_webhook(transaction, &mut webhook).await?;
    }
    write.answer(StatusCode::OK, Some(webhook_json(&webhook))).await
}
