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
use serde::Deserialize;
use serde_json::{Value, json};
use store::requests::AnswerRetention;
use store::{TenantStore, TenantTransaction};
use uuid::Uuid;
use webhooks::secret::SigningSecret;
use webhooks::{Disabled, DisabledReason, Ordering, Webhook, failures, registry};

use self::body::{WebhookChanges, webhook_json, webhook_json_with_secret};
use super::pages::split_page;
use crate::auth::Caller;
use crate::http::idempotency::WriteTransaction;
use crate::http::route::{AuditRule, AuthoritySource, Idempotency, Route};
use crate::http::{Digits, ErrorCode, JsonBody, JsonFields, Path, Problem, Query, RequestContext};
use crate::routes::Routes;
use crate::state::Gateway;

/// Maximum webhooks of one tenant.
const WEBHOOKS_PER_TENANT_MAX: u64 = 100;
/// How long the old secret still signs after a rotation.
const SECRET_ROTATION_OVERLAP: std::time::Duration = std::time::Duration::from_hours(24);

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    let read = |path| Route::get(path, &TENANT_ADMINISTER);
    let write = |method, path, retention| {
        Route::write(method, path, &TENANT_ADMINISTER)
            .authority(AuthoritySource::LockedEvents)
            .idempotency(Idempotency::Stored(retention))
    };
    let secret =
        |method, path| write(method, path, AnswerRetention::Secret).with_audit(AuditRule::CredentialChange);
    let write = |method, path| write(method, path, AnswerRetention::Permanent);
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

/// The parameters of lists.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhooksPageQuery<T> {
    after: Option<T>,
    limit: Option<Digits>,
}

impl<T> WebhooksPageQuery<T> {
    fn limit(&self) -> Result<usize, Problem> {
        match self.limit.map_or(20, |limit| limit.0) {
            limit @ 1..=100 => Ok(limit as usize),
            _ => Err(Problem::invalid_field("limit", InvalidValue::new("limit_invalid", "must be 1 to 100"))),
        }
    }
}

fn parse_id(text: &str) -> Result<Uuid, Problem> {
    text.parse().map_err(|_| Problem::new(ErrorCode::NotFound))
}

async fn load_for_update(transaction: &TenantTransaction, id: Uuid) -> Result<Webhook, Problem> {
    registry::lock(transaction, id).await?.ok_or(Problem::new(ErrorCode::NotFound))
}

async fn list(caller: Caller, Query(query): Query<WebhooksPageQuery<Uuid>>) -> Result<Json<Value>, Problem> {
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
    State(gateway): State<Gateway>,
    request: RequestContext,
    caller: Caller,
    write: WriteTransaction,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let transaction = write.transaction();
    let registered = WebhookChanges::for_new(body, gateway.config.allow_private_webhooks)?;
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
        secret: secret.seal(gateway.store.key(), caller.record.id, id).into(),
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
    State(gateway): State<Gateway>,
    caller: Caller,
    write: WriteTransaction,
    Path(id): Path<String>,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let transaction = write.transaction();
    let changes = WebhookChanges::for_existing(body, gateway.config.allow_private_webhooks)?;
    let mut webhook = load_for_update(transaction, parse_id(&id)?).await?;
    webhook.url = changes.url.unwrap_or(webhook.url);
    webhook.types = changes.types.unwrap_or(webhook.types);
    webhook.description = changes.description.unwrap_or(webhook.description);
    webhook.ordering = changes.ordering.unwrap_or(webhook.ordering);
    webhook.personal_data = changes.personal_data.unwrap_or(webhook.personal_data);
    match changes.enabled {
        Some(true) if webhook.disabled.is_some() => {
            enable_webhook(&gateway, &caller.store, transaction, &mut webhook).await?;
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
    gateway: &Gateway,
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
    if dead >= gateway.config.max_dead_letters_per_endpoint {
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
    State(gateway): State<Gateway>,
    caller: Caller,
    write: WriteTransaction,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let transaction = write.transaction();
    let mut webhook = load_for_update(transaction, parse_id(&id)?).await?;
    let secret = SigningSecret::generate();
    let sealed = secret.seal(gateway.store.key(), caller.record.id, webhook.id).into();
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
    State(gateway): State<Gateway>,
    caller: Caller,
    write: WriteTransaction,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let transaction = write.transaction();
    let mut webhook = load_for_update(transaction, parse_id(&id)?).await?;
    if webhook.disabled.is_some() {
        enable_webhook(&gateway, &caller.store, transaction, &mut webhook).await?;
        save_webhook(transaction, &mut webhook).await?;
    }
    write.answer(StatusCode::OK, Some(webhook_json(&webhook))).await
}
