//! `/v1/audit`: signed checkpoints, proofs and exports of a tenant's history, for auditors.

use audit::AuditError;
use audit::export::{self, Export};
use audit::prove::{self, ConsistencyProof, InclusionProof};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, TryStreamExt};
use schemas::engine::{StreamName, TypePattern};
use serde::Deserialize;

use super::events::position;
use crate::auth::Principal;
use crate::edge::failures::Cause;
use crate::edge::{Code, Problem};
use crate::gateway::Gateway;

/// Carries the span of positions that an export holds.
pub const POSITIONS: HeaderName = HeaderName::from_static("annals-positions");

/// The scope that reads proofs and exports.
pub const AUDIT_SCOPE: &str = "audit:read";

/// `GET /v1/audit/key`: the public key of the log's checkpoints, as signed notes write it.
pub async fn key(principal: Principal) -> Result<Response, Problem> {
    principal.needs(AUDIT_SCOPE)?;
    let sealed = prove::newest(&principal.store).await?;
    Ok(text(sealed.verifier_key + "\n"))
}

/// `GET /v1/audit/checkpoint`: the newest signed note.
pub async fn checkpoint(principal: Principal) -> Result<Response, Problem> {
    principal.needs(AUDIT_SCOPE)?;
    Ok(text(prove::newest(&principal.store).await?.note))
}

/// The parameters of a proof that an event is in the log.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofQuery {
    size: Option<u64>,
}

/// `GET /v1/audit/proofs/{position}`.
pub async fn proof(
    principal: Principal,
    Path(at): Path<String>,
    query: Result<Query<ProofQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<InclusionProof>, Problem> {
    principal.needs(AUDIT_SCOPE)?;
    let Query(query) = query.map_err(|_| malformed())?;
    let at = position(&at).ok_or_else(|| Problem::bad_request("the position must be a whole number"))?;
    if at > principal.store.head().await?.position {
        return Err(Problem::new(Code::NotFound).detail("the log has no such position"));
    }
    Ok(Json(prove::inclusion(&principal.store, at, query.size).await?))
}

/// The parameters of a proof that a shorter log is the beginning of a longer one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsistencyQuery {
    from: u64,
    to: Option<u64>,
}

/// `GET /v1/audit/consistency`.
pub async fn consistency(
    principal: Principal,
    query: Result<Query<ConsistencyQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<ConsistencyProof>, Problem> {
    principal.needs(AUDIT_SCOPE)?;
    let Query(query) = query.map_err(|_| malformed())?;
    Ok(Json(prove::consistency(&principal.store, query.from, query.to).await?))
}

/// The parameters of an export. `withhold` names types whose payloads stay out; `earlier` names sizes, separated by
/// commas, that the file is to prove to be the beginning of its log.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportQuery {
    from: Option<u64>,
    to: Option<u64>,
    stream: Option<String>,
    withhold: Option<String>,
    earlier: Option<String>,
}

impl ExportQuery {
    fn read(self) -> Result<Export, Problem> {
        let invalid = |name: &str| Problem::bad_request(format!("the parameter {name} is malformed"));
        let list = |text: Option<String>| -> Vec<String> {
            text.iter().flat_map(|text| text.split(',')).map(|part| part.trim().to_owned()).collect()
        };
        let stream = self.stream.as_deref().map(StreamName::parse).transpose();
        let withhold =
            list(self.withhold).iter().map(|text| text.parse::<TypePattern>()).collect::<Result<_, _>>();
        let earlier = list(self.earlier).iter().map(|text| position(text)).collect::<Option<_>>();
        Ok(Export {
            from: self.from,
            to: self.to,
            stream: stream.map_err(|_| invalid("stream"))?,
            withhold: withhold.map_err(|_| invalid("withhold"))?,
            earlier: earlier.ok_or_else(|| invalid("earlier"))?,
        })
    }
}

/// `GET /v1/audit/export`: the file, as it is written. A failure on the way breaks the connection off, and a file that
/// breaks off does not verify.
pub async fn export(
    State(gateway): State<Gateway>,
    principal: Principal,
    query: Result<Query<ExportQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    principal.needs(AUDIT_SCOPE)?;
    let Query(query) = query.map_err(|_| malformed())?;
    let slug = &principal.record.slug;
    let prepared = export::prepare(principal.store.clone(), slug, query.read()?).await?;
    let span = HeaderValue::from(prepared.span());
    let stopping = gateway.stopping.clone();
    let lines = export::write(prepared)
        .inspect_err(|error| tracing::warn!(cause = %Cause::of(error), "an export broke off"))
        .map_err(std::io::Error::other)
        .take_until(async move { stopping.cancelled().await });
    let mut response = Body::from_stream(lines).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jsonl"));
    headers.insert(POSITIONS, span);
    let name = format!("attachment; filename=\"{slug}.annals-export.jsonl\"");
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_str(&name).expect("a slug fits a header"));
    Ok(response)
}

fn malformed() -> Problem {
    Problem::bad_request("a parameter is unknown or malformed")
}

fn text(text: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))], text).into_response()
}

impl From<AuditError> for Problem {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::NotSealed(_) => Self::unavailable(error),
            AuditError::Bounds(what) => Self::bad_request(what),
            AuditError::Store(error) => error.into(),
            error => Self::internal(error),
        }
    }
}
