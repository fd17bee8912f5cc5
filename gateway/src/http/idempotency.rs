//! The header `Idempotency-Key` of REST writes. A repeated request gets the stored first answer. Only authentication
//! and authority are checked before. Concurrent requests with one key wait for the first one (`docs/adr/0027`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use access::{ErrorCode, Principal};
use axum::body::{Body, to_bytes};
use axum::extract::{FromRef, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use commands::{ExecuteError, UserRejection, claim};
use serde_json::Value;
use store::KeyUse;
use store::requests::{AnswerRetention, OpenRequest, RequestAnswer, RequestEnd, RequestStart};
use store::{RequestDigest, TenantStore, TenantTransaction};
use uuid::Uuid;

use super::content::buffer_body;
use super::problem::Problem;
use super::request_log::RequestContext;
use super::route::{Idempotency, Route};
use crate::auth::caller::{Authenticator, Caller};

/// The header that carries the command id.
pub const IDEMPOTENCY_KEY_HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// How long a request waits for a concurrent request with the same key. Shorter than the handler's time limit.
const CONCURRENT_REQUEST_WAIT_TIMEOUT: Duration = Duration::from_secs(4);
/// Maximum size of a stored answer in bytes. Answers of these routes are far smaller.
const STORED_RESPONSE_BYTES_MAX: usize = 256 * 1024;

/// The command id that the client chose. `None` without the header.
#[derive(Debug, Clone, Copy)]
pub struct IdempotencyKey(pub Option<Uuid>);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let mut given = parts.headers.get_all(IDEMPOTENCY_KEY_HEADER).iter();
        let key = match (given.next(), given.next()) {
            (None, _) => return Ok(Self(None)),
            (Some(key), None) => key.to_str().ok().and_then(|text| Uuid::parse_str(text.trim()).ok()),
            _ => None,
        };
        // Uninitialised clients send the nil UUID, so it is refused.
        match key {
            Some(key) if !key.is_nil() => Ok(Self(Some(key))),
            _ => Err(Problem::bad_request("Idempotency-Key must be one UUID")),
        }
    }
}

/// Runs an idempotent route: calls the handler, or returns the stored answer to an earlier request with the same key.
///
/// # Errors
/// `command_id_reused` when the key was used for another request; `answer_expired` when the first answer is deleted.
pub async fn execute_once(
    context: &RequestContext,
    route: &Route,
    tenant: &TenantStore,
    principal: &Principal,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (mut parts, body) = buffer_body(request).await?.into_parts();
    let IdempotencyKey(key) = IdempotencyKey::from_request_parts(&mut parts, &()).await?;
    let bytes = to_bytes(body, usize::MAX).await.map_err(Problem::internal)?;
    let Some(key) = key else { return Ok(next.run(Request::from_parts(parts, bytes.into())).await) };

    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let name = format!("{} {}", route.method_name(), route.path);
    let digest = RequestDigest::new(tenant.store().key(), &name, target).body(&bytes).finish();
    context.set_digest(digest);
    let refused = |error| Problem::from(ExecuteError::<UserRejection>::from(error));
    let claim = claim(principal, key, digest).map_err(refused)?;
    // Requests with this key in this process run one after the other. Another process finds the receipt.
    let lock = tenant.lock_request(claim.key, CONCURRENT_REQUEST_WAIT_TIMEOUT).await?;
    let mut request = Request::from_parts(parts, bytes.into());
    let Idempotency::Stored(retention) = route.idempotency else {
        if matches!(tenant.key_use(&claim).await?, KeyUse::Other) {
            return Err(key_reused());
        }
        return Ok(next.run(request).await);
    };
    match lock.begin(claim).await? {
        RequestStart::Repeat(answer) => Ok(response(answer.http_status, answer.body)),
        RequestStart::AnswerExpired => Err(Problem::new(ErrorCode::AnswerExpired)),
        RequestStart::KeyReused => Err(key_reused()),
        RequestStart::New(open) => {
            let open = PendingRequest::new(open);
            request.extensions_mut().insert(open.clone());
            let answer = next.run(request).await;
            // A handler that writes to the database has taken the request and completed it.
            let Some(open) = open.take().filter(|_| answer.status().is_success()) else { return Ok(answer) };
            let (parts, body) = answer.into_parts();
            let body = to_bytes(body, STORED_RESPONSE_BYTES_MAX).await.map_err(Problem::internal)?;
            complete(open, retention, parts.status, body.clone()).await?;
            Ok(Response::from_parts(parts, Body::from(body)))
        }
    }
}

fn key_reused() -> Problem {
    Problem::new(ErrorCode::CommandIdReused).detail("the Idempotency-Key came with another request before")
}

async fn complete(
    open: Box<OpenRequest>,
    retention: AnswerRetention,
    status: StatusCode,
    body: Bytes,
) -> Result<(), Problem> {
    match open.complete(&RequestAnswer { http_status: status.as_u16(), body }, retention).await? {
        RequestEnd::Completed => Ok(()),
        RequestEnd::KeyReused => Err(key_reused()),
    }
}

fn response(status: u16, body: Bytes) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    if body.is_empty() {
        return status.into_response();
    }
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The open transaction of a request, passed to the handler as a request extension.
#[derive(Clone)]
struct PendingRequest(Arc<Mutex<Option<Box<OpenRequest>>>>);

impl PendingRequest {
    fn new(open: Box<OpenRequest>) -> Self {
        Self(Arc::new(Mutex::new(Some(open))))
    }

    fn take(&self) -> Option<Box<OpenRequest>> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The transaction of a write that appends no event. The rows, the receipt and the answer commit together.
pub struct WriteTransaction {
    open: Result<Box<OpenRequest>, TenantTransaction>,
    retention: AnswerRetention,
}

impl<S: Sync> FromRequestParts<S> for WriteTransaction
where
    Authenticator: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let context = RequestContext::from_request_parts(parts, state).await?;
        let retention = match context.route().map(|route| route.idempotency) {
            Some(Idempotency::Stored(retention)) => retention,
            _ => AnswerRetention::Permanent,
        };
        let open = match parts.extensions.get::<PendingRequest>().and_then(PendingRequest::take) {
            Some(open) => Ok(open),
            None => {
                Err(Caller::from_request_parts(parts, state).await?.store.begin_worker_transaction().await?)
            }
        };
        Ok(Self { open, retention })
    }
}

impl WriteTransaction {
    /// The transaction for the handler's own rows.
    pub fn transaction(&self) -> &TenantTransaction {
        match &self.open {
            Ok(open) => open.transaction(),
            Err(transaction) => transaction,
        }
    }

    /// Commits the write and stores its answer.
    ///
    /// # Errors
    /// `command_id_reused` when another request has used the key meanwhile; `unavailable` when the database does not
    /// answer; the write may have taken effect.
    pub async fn answer(self, status: StatusCode, body: Option<Value>) -> Result<Response, Problem> {
        let body = Bytes::from(body.map(|body| body.to_string()).unwrap_or_default());
        match self.open {
            Ok(open) => complete(open, self.retention, status, body.clone()).await?,
            Err(transaction) => transaction.commit().await?,
        }
        Ok(response(status.as_u16(), body))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    async fn read(values: &[&str]) -> Result<Option<Uuid>, Problem> {
        let mut request = Request::post("/");
        for value in values {
            request = request.header("Idempotency-Key", *value);
        }
        let (mut parts, ()) = request.body(()).expect("valid").into_parts();
        IdempotencyKey::from_request_parts(&mut parts, &()).await.map(|key| key.0)
    }

    #[tokio::test]
    async fn a_key_is_one_uuid_or_absent() {
        let key = "0198c0de-0000-7000-8000-000000000001";
        assert!(matches!(read(&[]).await, Ok(None)));
        assert!(matches!(read(&[key]).await, Ok(Some(_))));
        assert!(read(&["abc"]).await.is_err());
        assert!(read(&[key, key]).await.is_err());
        assert!(read(&["00000000-0000-0000-0000-000000000000"]).await.is_err());
    }
}
