//! `/v1/audit`: signed checkpoints, proofs and exports of a tenant's history, for auditors.

use access::policy::{AUDIT_READ, PERSONAL_DATA_READ};
use audit::AuditError;
use audit::export::{self, Export};
use audit::proof::{self, ConsistencyProof, InclusionProof};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use commands::Executor;
use commands::identity::authority::{self, AuthorityError};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use schemas::engine::{StreamName, TypePattern};
use serde::Deserialize;
use store::KeyRecipient;
use tokio_util::task::AbortOnDropHandle;

use super::events::position;
use crate::auth::Caller;
use crate::http::failures::Cause;
use crate::http::route::{AuditRule, Route};
use crate::http::{Digits, ErrorCode, Path, Problem, Query, RequestContext};
use crate::routes::Routes;
use crate::streams::{AccessWatch, DisconnectReason};

/// The response header with the first and the last position of an export.
pub const POSITIONS_HEADER: HeaderName = HeaderName::from_static("annals-positions");

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    let read = |path| Route::recorded_get(path, &AUDIT_READ);
    routes
        .add(read("/v1/audit/key"), key)
        .add(read("/v1/audit/checkpoint"), checkpoint)
        .add(read("/v1/audit/proofs/{position}"), proof)
        .add(read("/v1/audit/consistency"), consistency)
        .add(read("/v1/audit/export"), export)
}

/// `GET /v1/audit/key`: the public key of the log's signed checkpoints, in the format of signed notes.
async fn key(caller: Caller) -> Result<Response, Problem> {
    let sealed = proof::newest(&caller.store).await?;
    Ok(text(sealed.verifier_key + "\n"))
}

/// `GET /v1/audit/checkpoint`: the newest signed checkpoint.
async fn checkpoint(caller: Caller) -> Result<Response, Problem> {
    Ok(text(proof::newest(&caller.store).await?.note))
}

/// The parameters of an inclusion proof.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofQuery {
    size: Option<Digits>,
}

/// `GET /v1/audit/proofs/{position}`: proves that the event is in the log.
async fn proof(
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

/// The parameters of a consistency proof.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsistencyQuery {
    from: Digits,
    to: Option<Digits>,
}

/// `GET /v1/audit/consistency`: proves that a shorter log is the beginning of a longer one.
async fn consistency(
    caller: Caller,
    Query(query): Query<ConsistencyQuery>,
) -> Result<Json<ConsistencyProof>, Problem> {
    Ok(Json(proof::consistency(&caller.store, query.from.0, query.to.map(|to| to.0)).await?))
}

/// The parameters of an export.
///
/// - `withhold`: types whose payloads are left out.
/// - `earlier`: sizes, separated by commas. The file proves that a log of that size is its beginning.
/// - `keys_to`: the public key of the recipient of the encryption keys.
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

/// `GET /v1/audit/export`: streams the file while it is written. An error, or the end of the right to read, ends the
/// response with a line that holds the code, and closes the connection. Such a file does not verify. Encryption keys
/// need the right to read personal data. The activity log records their recipient.
async fn export(
    State(executor): State<Executor>,
    State(access_watch): State<AccessWatch>,
    request: RequestContext,
    caller: Caller,
    Query(query): Query<ExportQuery>,
) -> Result<Response, Problem> {
    let export = query.read()?;
    if let Some(keys_to) = &export.keys_to {
        caller.require_permission(&PERSONAL_DATA_READ)?;
        // Exported keys cannot be revoked, so the rights are checked against the caller's own events.
        let current = authority::current(&executor, caller.record.id, caller.principal()).await?;
        if !PERSONAL_DATA_READ.is_held_by(&current) {
            return Err(AuthorityError::Forbidden.into());
        }
        request.set_subject(format!("keys_to={keys_to}"));
        request.set_audit(AuditRule::CredentialChange);
    }
    let slug = caller.record.slug.clone();
    let prepared = export::prepare(caller.store.clone(), &slug, export).await?;
    let span = HeaderValue::from(prepared.span());
    // Checks the right to read even while a slow client blocks the lines.
    let ends =
        AbortOnDropHandle::new(tokio::spawn(access_watch.read_access_ended(caller, prepared.log_id())));
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

/// The lines, until `ends` completes.
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
        // The bytes above are sent when the stream is pending. An error right after them would discard them.
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
