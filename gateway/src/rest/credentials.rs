//! `/v1/integrations/credentials`: administrators of a tenant give integrators access to its events on NATS.

use access::policy::TENANT_ADMINISTER;
use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use chrono::TimeDelta;
use nats::integrators::registry::{self, IntegratorCredential};
use nats::integrators::{Integrators, IssuedCredential, LIFETIME_MAX, NewIntegrator, ResetPoint};
use schemas::engine::recorded::timestamp;
use schemas::engine::{InvalidValue, TypePattern, parse_time};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::requests::AnswerRetention;
use uuid::Uuid;

use super::pages::split_page;
use crate::auth::Caller;
use crate::http::route::Route;
use crate::http::{
    Digits, ErrorCode, IdempotencyKey, JsonBody, JsonFields, Path, Problem, Query, RequestContext,
};
use crate::routes::Routes;

const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: usize = 1_000;
/// Maximum hours that an old file stays valid after a rotation. A week is enough to replace a file.
const ROTATION_OVERLAP_HOURS_MAX: u64 = 7 * 24;

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    let read = |path| Route::get(path, &TENANT_ADMINISTER);
    let change = |method, path| Route::credential_change(method, path, &TENANT_ADMINISTER);
    let kept = |method, path| change(method, path).stored(AnswerRetention::Permanent);
    let secret = |method, path| change(method, path).stored(AnswerRetention::Secret);
    routes
        .add(read("/v1/integrations/credentials"), list)
        .add(secret(Method::POST, "/v1/integrations/credentials"), create)
        .add(read("/v1/integrations/credentials/{name}"), show)
        .add(kept(Method::DELETE, "/v1/integrations/credentials/{name}"), revoke)
        .add(kept(Method::POST, "/v1/integrations/credentials/{name}/reset"), reset)
        .add(secret(Method::POST, "/v1/integrations/credentials/{name}/rotate"), rotate)
}

/// A credential in a list. It holds no secrets.
#[derive(Debug, Serialize)]
struct CredentialBody {
    name: String,
    consumer: String,
    types: Vec<String>,
    created_at: String,
    expires_at: Option<String>,
    acked_position: u64,
    in_effect: bool,
}

impl From<IntegratorCredential> for CredentialBody {
    fn from(credential: IntegratorCredential) -> Self {
        Self {
            name: credential.name,
            consumer: credential.consumer,
            types: credential.types,
            created_at: timestamp(credential.created_at),
            expires_at: credential.expires_at.map(timestamp),
            acked_position: credential.acked.position,
            in_effect: credential.applied,
        }
    }
}

/// The parameters of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialsQuery {
    #[serde(default)]
    after: String,
    limit: Option<Digits>,
}

/// Issues a credential: 201 with everything that a standard NATS client needs.
async fn create(
    State(integrators): State<Option<Integrators>>,
    request: RequestContext,
    caller: Caller,
    key: IdempotencyKey,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let integrators = configured(integrators.as_ref())?;
    let new = parse_new_credential(body)?;
    request.set_subject(&new.name);
    let issued = integrators.create(&caller.record, new, receipt_key(&caller, key)).await?;
    Ok((StatusCode::CREATED, Json(issued_body(&issued))))
}

/// Lists the credentials, ordered by name.
async fn list(
    State(integrators): State<Option<Integrators>>,
    caller: Caller,
    uri: Uri,
) -> Result<Json<Value>, Problem> {
    configured(integrators.as_ref())?;
    let Query(page) = Query::<CredentialsQuery>::read(&uri)?;
    let limit = Digits::limit(page.limit, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)?;
    let credentials = registry::commands::page(&caller.store, &page.after, limit as u32 + 1).await?;
    let (credentials, next_after) = split_page(credentials, limit, |credential| credential.name.clone());
    let credentials: Vec<CredentialBody> = credentials.into_iter().map(Into::into).collect();
    Ok(Json(json!({"credentials": credentials, "next_after": next_after})))
}

/// Shows one credential.
async fn show(
    State(integrators): State<Option<Integrators>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<CredentialResponse>, Problem> {
    configured(integrators.as_ref())?;
    let credential =
        registry::commands::find(&caller.store, &name).await?.ok_or(Problem::new(ErrorCode::NotFound))?;
    Ok(Json(CredentialResponse(credential.into())))
}

/// Revokes a credential. Its connections are closed before the response is sent.
async fn revoke(
    State(integrators): State<Option<Integrators>>,
    caller: Caller,
    key: IdempotencyKey,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    configured(integrators.as_ref())?.revoke(&caller.record, &name, receipt_key(&caller, key)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Resets the consumer of a credential to a position or a time.
async fn reset(
    State(integrators): State<Option<Integrators>>,
    caller: Caller,
    key: IdempotencyKey,
    Path(name): Path<String>,
    JsonBody(body): JsonBody,
) -> Result<Json<CredentialResponse>, Problem> {
    let integrators = configured(integrators.as_ref())?;
    let credential =
        integrators.reset(&caller.record, &name, parse_start(body)?, receipt_key(&caller, key)).await?;
    let mut answer = CredentialBody::from(credential);
    answer.in_effect = true;
    Ok(Json(CredentialResponse(answer)))
}

/// Issues another file for a credential: 201 as for a new one. Earlier files stay valid for `overlap_hours`.
async fn rotate(
    State(integrators): State<Option<Integrators>>,
    caller: Caller,
    key: IdempotencyKey,
    Path(name): Path<String>,
    JsonBody(mut body): JsonBody,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let integrators = configured(integrators.as_ref())?;
    let hours = body.position("overlap_hours").unwrap_or(0);
    if hours > ROTATION_OVERLAP_HOURS_MAX {
        let message = format!("must be at most {ROTATION_OVERLAP_HOURS_MAX}");
        body.add_error("overlap_hours", InvalidValue::new("overlap_invalid", message));
    }
    let overlap = body.finish(|| Some(TimeDelta::hours(hours as i64)))?;
    let issued =
        integrators.rotate(&caller.record, &name, LIFETIME_MAX, overlap, receipt_key(&caller, key)).await?;
    Ok((StatusCode::CREATED, Json(issued_body(&issued))))
}

/// A credential in a response.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct CredentialResponse(CredentialBody);

/// The receipt key. It is derived from the idempotency key and the principal, so callers cannot share keys.
fn receipt_key(caller: &Caller, IdempotencyKey(key): IdempotencyKey) -> Option<Uuid> {
    key.map(|key| commands::receipt_key(caller.principal(), key))
}

fn issued_body(issued: &IssuedCredential) -> Value {
    let mut body = json!(issued.connection);
    body["expires_at"] = timestamp(issued.expires_at).into();
    body
}

/// The service for credentials.
///
/// # Errors
/// 503 when the deployment has none.
fn configured(integrators: Option<&Integrators>) -> Result<&Integrators, Problem> {
    integrators.ok_or_else(|| {
        Problem::new(ErrorCode::Unavailable)
            .detail("credentials for integrators are not configured in this deployment")
    })
}

fn parse_new_credential(mut body: JsonFields) -> Result<NewIntegrator, Problem> {
    let name = body.required("name", |text| Ok(text.to_owned()));
    let types = body.optional_texts("types", str::parse::<TypePattern>);
    let after = body.position("after").unwrap_or(0);
    body.finish(|| Some(NewIntegrator { name: name?, types: types?, after, lifetime: LIFETIME_MAX }))
}

fn parse_start(mut body: JsonFields) -> Result<ResetPoint, Problem> {
    let after = body.position("after");
    let mut asked_for_time = false;
    let time = body.optional("time", |text| {
        asked_for_time = true;
        parse_time(text)
    });
    if after.is_some() == asked_for_time {
        body.add_error("after", InvalidValue::new("required", "give either after or time"));
    }
    body.finish(|| match after {
        Some(after) => Some(ResetPoint::Position(after)),
        None => Some(ResetPoint::Time(time?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(body: Value) -> JsonFields {
        let Value::Object(values) = body else { panic!("an object") };
        JsonFields::new(values)
    }

    #[test]
    fn a_new_credential_needs_a_name_alone() {
        let new = parse_new_credential(fields(json!({"name": "erp"}))).expect("complete");
        assert_eq!((new.after, new.types.len()), (0, 0));
        let new = parse_new_credential(fields(json!({"name": "erp", "types": ["crm.>"], "after": "12"})))
            .expect("complete");
        assert_eq!((new.after, new.types.len()), (12, 1));
        let code = |body| parse_new_credential(fields(body)).err().map(|problem| problem.code());
        assert_eq!(code(json!({})), Some(ErrorCode::Invalid));
        assert_eq!(code(json!({"name": "erp", "types": ["crm..x"]})), Some(ErrorCode::Invalid));
        assert_eq!(code(json!({"name": "erp", "types": "crm.>"})), Some(ErrorCode::BadRequest));
        assert_eq!(code(json!({"name": "erp", "after": -1})), Some(ErrorCode::BadRequest));
        assert_eq!(code(json!({"name": "erp", "filter": ">"})), Some(ErrorCode::Invalid));
    }

    #[test]
    fn a_place_is_a_position_or_a_time() {
        assert_eq!(parse_start(fields(json!({"after": 7}))).ok(), Some(ResetPoint::Position(7)));
        assert!(matches!(
            parse_start(fields(json!({"time": "2026-01-02T03:04:05Z"}))),
            Ok(ResetPoint::Time(_))
        ));
        for wrong in [json!({}), json!({"after": 1, "time": "2026-01-02T03:04:05Z"}), json!({"time": "noon"})]
        {
            assert_eq!(
                parse_start(fields(wrong)).err().map(|problem| problem.code()),
                Some(ErrorCode::Invalid)
            );
        }
    }
}
