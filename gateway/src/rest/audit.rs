//! `/v1/audit`: signed checkpoints, proofs and exports of a tenant's history, for auditors.

use access::policy::PERSONAL_DATA_READ;
use audit::AuditError;
use audit::export::{self, Export};
use audit::proof::{self, ConsistencyProof, InclusionProof};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use commands::identity::authority::{self, AuthorityError};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use schemas::engine::{StreamName, TypePattern};
use serde::Deserialize;
use store::KeyRecipient;
use tokio_util::task::AbortOnDropHandle;

use super::events::position;
use crate::auth::Caller;
use crate::http::failures::Cause;
use crate::http::route::AuditRule;
use crate::http::{Digits, ErrorCode, Path, Problem, Query, RequestContext};
use crate::state::Gateway;
use crate::streams::{DisconnectReason, read_access_ended};

/// Carries the span of positions that an export holds.
pub const POSITIONS_HEADER: HeaderName = HeaderName::from_static("annals-positions");

/// `GET /v1/audit/key`: the public key of the log's checkpoints, as signed notes write it.
pub async fn key(caller: Caller) -> Result<Response, Problem> {
    let sealed = proof::newest(&caller.store).await?;
    Ok(text(sealed.verifier_key + "\n"))
}

/// `GET /v1/audit/checkpoint`: the newest signed note.
pub async fn checkpoint(caller: Caller) -> Result<Response, Problem> {
    Ok(text(proof::newest(&caller.store).await?.note))
}

/// The parameters of a proof that an event is in the log.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofQuery {
    size: Option<Digits>,
}

/// `GET /v1/audit/proofs/{position}`.
pub async fn proof(
    caller: Caller,
    Path(at): Path<String>,
    Query(query): Query<ProofQuery>,
) -> Result<Json<InclusionProof>, Problem> {
    let at = position(&at).ok_or_else(|| Problem::bad_request("the position must be a whole number"))?;
    if at > caller.store.head().await?.position {
        return Err(Problem::new(ErrorCode::NotFound).detail("the log has no such position"));
    }
    Ok(Json(proof::inclusion(&caller.store, at, query.size.map(|size| size.0)).await?))
}

/// The parameters of a proof that a shorter log is the beginning of a longer one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsistencyQuery {
    from: Digits,
    to: Option<Digits>,
}

/// `GET /v1/audit/consistency`.
pub async fn consistency(
    caller: Caller,
    Query(query): Query<ConsistencyQuery>,
) -> Result<Json<ConsistencyProof>, Problem> {
    Ok(Json(proof::consistency(&caller.store, query.from.0, query.to.map(|to| to.0)).await?))
}

/// The parameters of an export. `withhold` names types whose payloads stay out; `earlier` names sizes, separated by
/// commas, that the file is to prove to be the beginning of its log; `keys_to` is the public key of who gets the keys of
/// the sealed parts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportQuery {
    from: Option<Digits>,
    to: Option<Digits>,
    stream: Option<String>,
    withhold: Option<String>,
    earlier: Option<String>,
    keys_to: Option<String>,
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
        let keys_to = self.keys_to.as_deref().map(str::parse::<KeyRecipient>).transpose();
        Ok(Export {
            from: self.from.map(|from| from.0),
            to: self.to.map(|to| to.0),
            stream: stream.map_err(|_| invalid("stream"))?,
            withhold: withhold.map_err(|_| invalid("withhold"))?,
            earlier: earlier.ok_or_else(|| invalid("earlier"))?,
            keys_to: keys_to.map_err(|_| invalid("keys_to"))?,
        })
    }
}

/// `GET /v1/audit/export`: the file, as it is written. Whatever goes wrong or ends the right to read breaks the connection
/// off, behind a line that says why, and a file that breaks off does not verify. Keys are for those who may read personal
/// data as well, and to whom they were handed is told in the activity log.
pub async fn export(
    State(gateway): State<Gateway>,
    request: RequestContext,
    caller: Caller,
    Query(query): Query<ExportQuery>,
) -> Result<Response, Problem> {
    let export = query.read()?;
    if let Some(keys_to) = &export.keys_to {
        caller.require_permission(&PERSONAL_DATA_READ)?;
        // Keys that were handed out cannot be taken back.
        let current = authority::current(&gateway.executor, caller.record.id, caller.principal()).await?;
        if !PERSONAL_DATA_READ.is_held_by(&current) {
            return Err(AuthorityError::Forbidden.into());
        }
        request.set_subject(format!("keys_to={keys_to}"));
        request.set_audit(AuditRule::CredentialChange);
    }
    let slug = caller.record.slug.clone();
    let prepared = export::prepare(caller.store.clone(), &slug, export).await?;
    let span = HeaderValue::from(prepared.span());
    // Looks on while a slow client keeps the lines waiting.
    let ends = AbortOnDropHandle::new(tokio::spawn(read_access_ended(gateway, caller, prepared.log_id())));
    let ends = ends.map(|ended| ended.unwrap_or(DisconnectReason::Internal));
    let lines = export::write(prepared)
        .inspect_err(|error| tracing::warn!(cause = %Cause::of(error), "an export broke off"))
        .map_err(|_told| DisconnectReason::Internal);
    let mut response = Body::from_stream(until(lines, ends)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jsonl"));
    headers.insert(POSITIONS_HEADER, span);
    let name = format!("attachment; filename=\"{slug}.annals-export.jsonl\"");
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_str(&name).expect("a slug fits a header"));
    Ok(response)
}

/// The lines, until something ends them.
fn until(
    lines: impl Stream<Item = Result<Bytes, DisconnectReason>> + Send + 'static,
    ends: impl Future<Output = DisconnectReason> + Send + 'static,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    async_stream::stream! {
        let (mut lines, mut ends) = (Box::pin(lines), Box::pin(ends));
        let reason = loop {
            let next = tokio::select! {
                biased;
                reason = &mut ends => break reason,
                next = lines.next() => next,
            };
            match next {
                Some(Ok(bytes)) => yield Ok(bytes),
                Some(Err(reason)) => break reason,
                None => return,
            }
        };
        yield Ok(Bytes::from(format!("{{\"closed\":\"{}\"}}\n", reason.as_str())));
        // What was yielded is sent while nothing more is ready; an error right behind it would take it along.
        tokio::task::yield_now().await;
        yield Err(std::io::Error::other(reason.as_str()));
    }
}

fn text(text: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))], text).into_response()
}

impl From<AuditError> for Problem {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::NotSealed(_) => Self::unavailable(error),
            AuditError::Bounds(what) => Self::bad_request(what),
            AuditError::BeyondHead { .. } => Self::bad_request(error.to_string()),
            AuditError::Store(error) => error.into(),
            error => Self::internal(error),
        }
    }
}
