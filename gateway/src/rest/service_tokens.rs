//! `/v1/service-tokens`: tenant administrators issue and revoke tokens of services.

use access::policy::TENANT_ADMINISTER;
use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use commands::{
    CommandSideEffects, Decider, ExecuteError, Executor, ServiceToken, ServiceTokenRejection,
    new_aggregate_id,
};
use schemas::engine::recorded::timestamp;
use schemas::engine::{Name, parse_time};
use schemas::integration::service_token::{ServiceScope, ServiceTokenCommand};
use serde_json::{Value, json};
use uuid::Uuid;

use super::pages::PageQuery;
use crate::auth::{Caller, ServiceGrant, ServiceTokens, Tokens};
use crate::http::failures::rejected_field;
use crate::http::path::parse_id;
use crate::http::route::Route;
use crate::http::{IdempotencyKey, JsonBody, Path, Problem, RequestContext};
use crate::routes::Routes;

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    let change = |method, path| Route::credential_change(method, path, &TENANT_ADMINISTER);
    routes
        .add(Route::get("/v1/service-tokens", &TENANT_ADMINISTER), list)
        .add(change(Method::POST, "/v1/service-tokens"), issue)
        .add(change(Method::DELETE, "/v1/service-tokens/{id}"), revoke)
}

/// `POST /v1/service-tokens`: the response holds the token, as does the response to a repeat with the same key. The
/// token is not stored.
async fn issue(
    State(executor): State<Executor>,
    State(tokens): State<Tokens>,
    request: RequestContext,
    caller: Caller,
    key: IdempotencyKey,
    JsonBody(mut body): JsonBody,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let name = body.required("name", Name::parse);
    let scopes = body.texts("scopes", ServiceScope::parse);
    // A token has a lifetime in days or a time of expiry.
    let by_time = body.values().get("expires_at").is_some_and(|given| !given.is_null());
    let expires_at = body.optional("expires_at", parse_time);
    let expires_days = body.whole_number("expires_days", !by_time);
    let (name, scopes) = body.finish(|| Some((name?, scopes?)))?;
    let expires_days = expires_days.map(|days| u32::try_from(days).unwrap_or(u32::MAX));
    let command = ServiceTokenCommand::IssueServiceToken { name, scopes, expires_days, expires_at };
    let context = caller.command_context(&request, key.0);
    let id = new_aggregate_id(&context, ServiceToken::CATEGORY);
    request.set_subject(id.to_string());
    let executed =
        executor.execute::<ServiceToken>(&context, id, command, CommandSideEffects::default()).await;
    let executed = executed.map_err(to_problem)?;
    let token = &executed.state;
    let grant = ServiceGrant {
        id,
        tenant: caller.record.id,
        tenant_slug: caller.record.slug.clone(),
        tier: caller.record.tier,
        name: token.name.clone(),
        scopes: token.scopes.iter().map(|scope| scope.scope().clone()).collect(),
        issued_at: token.issued_at,
        expires_at: token.expires_at,
    };
    let access_token = tokens.issue_service(&grant).map_err(Problem::internal)?;
    Ok((
        StatusCode::CREATED,
        Json(json!({
            "service_token": token_json(id, token),
            "access_token": access_token,
            "token_type": "Bearer",
            "consistency_token": executed.consistency_token,
        })),
    ))
}

/// `GET /v1/service-tokens`: pages in order of issue. Tokens issued with an idempotency key have no such order.
async fn list(State(executor): State<Executor>, caller: Caller, uri: Uri) -> Result<Json<Value>, Problem> {
    let page = PageQuery::read(&uri)?;
    let (ids, next_after) = page.ids::<ServiceToken>(&caller.store).await?;
    let mut tokens = Vec::with_capacity(ids.len());
    for id in &ids {
        if let Some((token, _)) = executor.load::<ServiceToken>(caller.record.id, *id).await? {
            tokens.push(token_json(*id, &token));
        }
    }
    Ok(Json(json!({ "service_tokens": tokens, "next_after": next_after })))
}

/// `DELETE /v1/service-tokens/{id}`: revokes a token. A second request changes nothing.
async fn revoke(
    State(executor): State<Executor>,
    State(service_tokens): State<ServiceTokens>,
    request: RequestContext,
    caller: Caller,
    key: IdempotencyKey,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = parse_id(&id)?;
    let context = caller.command_context(&request, key.0);
    let command = ServiceTokenCommand::RevokeServiceToken {};
    executor
        .execute::<ServiceToken>(&context, id, command, CommandSideEffects::default())
        .await
        .map_err(to_problem)?;
    service_tokens.invalidate(caller.record.id, id);
    Ok(StatusCode::NO_CONTENT)
}

fn token_json(id: Uuid, token: &ServiceToken) -> Value {
    json!({
        "id": id,
        "name": token.name,
        "scopes": token.scopes,
        "issued_at": timestamp(token.issued_at),
        "expires_at": timestamp(token.expires_at),
        "revoked": token.revoked,
    })
}

fn to_problem(error: ExecuteError<ServiceTokenRejection>) -> Problem {
    match error {
        ExecuteError::Rejected(rejection @ ServiceTokenRejection::Scopes) => {
            rejected_field("scopes", "scopes_invalid", &rejection)
        }
        ExecuteError::Rejected(rejection @ ServiceTokenRejection::Days) => {
            rejected_field("expires_days", "expires_days_invalid", &rejection)
        }
        ExecuteError::Rejected(rejection @ ServiceTokenRejection::AuditorReadOnly) => {
            rejected_field("scopes", "auditor_read_only", &rejection)
        }
        error => error.into(),
    }
}
