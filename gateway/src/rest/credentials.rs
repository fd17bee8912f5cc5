//! `/v1/integrations/credentials`: a tenant's administrators give integrators access to the tenant's events on NATS.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use chrono::TimeDelta;
use nats::integrators::{Integrators, Issued, LONGEST_LIFETIME, NewIntegrator, Place};
use schemas::engine::recorded::timestamp;
use schemas::engine::{InvalidValue, TypePattern, parse_time};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::IntegratorCredential;

use super::pages::page_of;
use crate::auth::Caller;
use crate::gateway::Gateway;
use crate::http::{Body, Digits, ErrorCode, Fields, IdempotencyKey, Problem, Query, RequestContext};

const DEFAULT_LIMIT: usize = 100;
const LIMIT_MAX: usize = 1_000;
/// A week is enough to exchange a file anywhere.
const LONGEST_OVERLAP_HOURS: u64 = 7 * 24;

/// A credential as it is listed: nothing of it is secret.
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

/// Where a page begins and how long it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default)]
    after: String,
    limit: Option<Digits>,
}

/// Issues a credential: 201 with everything that a stock client needs.
pub async fn create(
    State(gateway): State<Gateway>,
    request: RequestContext,
    caller: Caller,
    key: IdempotencyKey,
    Body(body): Body,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let integrators = integrators(&gateway)?;
    let new = read_new(body)?;
    request.note_subject(&new.name);
    let issued = integrators.create(&caller.record, new, key.0).await?;
    Ok((StatusCode::CREATED, Json(issued_body(&issued))))
}

/// Lists the credentials by name.
pub async fn list(State(gateway): State<Gateway>, caller: Caller, uri: Uri) -> Result<Json<Value>, Problem> {
    integrators(&gateway)?;
    let Query(page) = Query::<Page>::read(&uri)?;
    let limit = Digits::limit(page.limit, DEFAULT_LIMIT, LIMIT_MAX)?;
    let credentials = caller.store.credentials(&page.after, limit as u32 + 1).await?;
    let (credentials, next_after) = page_of(credentials, limit, |credential| credential.name.clone());
    let credentials: Vec<CredentialBody> = credentials.into_iter().map(Into::into).collect();
    Ok(Json(json!({"credentials": credentials, "next_after": next_after})))
}

/// Shows one credential.
pub async fn show(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<CredentialAnswer>, Problem> {
    integrators(&gateway)?;
    let credential = caller.store.credential(&name).await?.ok_or(Problem::new(ErrorCode::NotFound))?;
    Ok(Json(CredentialAnswer(credential.into())))
}

/// Revokes a credential: its connections are cut when the answer comes.
pub async fn revoke(
    State(gateway): State<Gateway>,
    caller: Caller,
    key: IdempotencyKey,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    integrators(&gateway)?.revoke(&caller.record, &name, key.0).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Has the consumer start again behind a position or at a time.
pub async fn reset(
    State(gateway): State<Gateway>,
    caller: Caller,
    key: IdempotencyKey,
    Path(name): Path<String>,
    Body(body): Body,
) -> Result<Json<CredentialAnswer>, Problem> {
    let integrators = integrators(&gateway)?;
    let credential = integrators.reset(&caller.record, &name, read_place(body)?, key.0).await?;
    let mut answer = CredentialBody::from(credential);
    answer.in_effect = true;
    Ok(Json(CredentialAnswer(answer)))
}

/// Issues a further file for a credential: 201 as for a new one. Earlier files are good for `overlap_hours` more.
pub async fn rotate(
    State(gateway): State<Gateway>,
    caller: Caller,
    key: IdempotencyKey,
    Path(name): Path<String>,
    Body(mut body): Body,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let integrators = integrators(&gateway)?;
    let hours = body.position("overlap_hours").unwrap_or(0);
    if hours > LONGEST_OVERLAP_HOURS {
        let message = format!("must be at most {LONGEST_OVERLAP_HOURS}");
        body.wrong("overlap_hours", InvalidValue::new("overlap_invalid", message));
    }
    let overlap = body.finish(|| Some(TimeDelta::hours(hours as i64)))?;
    let issued = integrators.rotate(&caller.record, &name, LONGEST_LIFETIME, overlap, key.0).await?;
    Ok((StatusCode::CREATED, Json(issued_body(&issued))))
}

/// A credential as an answer.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct CredentialAnswer(CredentialBody);

fn issued_body(issued: &Issued) -> Value {
    let mut body = json!(issued.connection);
    body["expires_at"] = timestamp(issued.expires_at).into();
    body
}

/// What serves the request, where the caller may and a deployment has it.
fn integrators(gateway: &Gateway) -> Result<&Integrators, Problem> {
    gateway.integrators.as_ref().ok_or_else(|| {
        Problem::new(ErrorCode::Unavailable)
            .detail("credentials for integrators are not configured in this deployment")
    })
}

fn read_new(mut body: Fields) -> Result<NewIntegrator, Problem> {
    let name = body.required("name", |text| Ok(text.to_owned()));
    let types = body.optional_texts("types", str::parse::<TypePattern>);
    let after = body.position("after").unwrap_or(0);
    body.finish(|| Some(NewIntegrator { name: name?, types: types?, after, lifetime: LONGEST_LIFETIME }))
}

fn read_place(mut body: Fields) -> Result<Place, Problem> {
    let after = body.position("after");
    let mut asked_for_time = false;
    let time = body.optional("time", |text| {
        asked_for_time = true;
        parse_time(text)
    });
    if after.is_some() == asked_for_time {
        body.wrong("after", InvalidValue::new("required", "give either after or time"));
    }
    body.finish(|| match after {
        Some(after) => Some(Place::Position(after)),
        None => Some(Place::Time(time?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(body: Value) -> Fields {
        let Value::Object(values) = body else { panic!("an object") };
        Fields::new(values)
    }

    #[test]
    fn a_new_credential_needs_a_name_alone() {
        let new = read_new(fields(json!({"name": "erp"}))).expect("complete");
        assert_eq!((new.after, new.types.len()), (0, 0));
        let new =
            read_new(fields(json!({"name": "erp", "types": ["crm.>"], "after": "12"}))).expect("complete");
        assert_eq!((new.after, new.types.len()), (12, 1));
        let code = |body| read_new(fields(body)).err().map(|problem| problem.code());
        assert_eq!(code(json!({})), Some(ErrorCode::Invalid));
        assert_eq!(code(json!({"name": "erp", "types": ["crm..x"]})), Some(ErrorCode::Invalid));
        assert_eq!(code(json!({"name": "erp", "types": "crm.>"})), Some(ErrorCode::BadRequest));
        assert_eq!(code(json!({"name": "erp", "after": -1})), Some(ErrorCode::BadRequest));
        assert_eq!(code(json!({"name": "erp", "filter": ">"})), Some(ErrorCode::Invalid));
    }

    #[test]
    fn a_place_is_a_position_or_a_time() {
        assert_eq!(read_place(fields(json!({"after": 7}))).ok(), Some(Place::Position(7)));
        assert!(matches!(read_place(fields(json!({"time": "2026-01-02T03:04:05Z"}))), Ok(Place::Time(_))));
        for wrong in [json!({}), json!({"after": 1, "time": "2026-01-02T03:04:05Z"}), json!({"time": "noon"})]
        {
            assert_eq!(
                read_place(fields(wrong)).err().map(|problem| problem.code()),
                Some(ErrorCode::Invalid)
            );
        }
    }
}
