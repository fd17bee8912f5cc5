//! The outermost layer of a request. It creates the request id and the span, writes the bodies of problems, sets
//! response headers, records metrics and writes the access log.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use access::Principal;
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use schemas::engine::metadata::parse_traceparent;
use schemas::engine::{RequestId, TenantId, TenantSlug};
use store::TenantRecord;
use tracing::Instrument;

use super::access_log::{AccessLine, request_span};
use super::compression::Uncompressed;
use super::failures::Cause;
use super::headers;
use super::route::{AuditRule, ErrorFormat, Route, RouteTable};
use access::ErrorCode;

use super::problem::Problem;

/// The header with the request id, in requests and responses.
pub const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Carries the W3C Trace Context of a request.
pub const TRACEPARENT_HEADER: HeaderName = HeaderName::from_static("traceparent");

/// What is known about a request. Handlers read the request id from it. Extractors set tenant and principal for the
/// log.
#[derive(Clone)]
pub struct RequestContext(Arc<RequestRecord>);

struct RequestRecord {
    id: RequestId,
    traceparent: Option<String>,
    tenant: OnceLock<(TenantId, TenantSlug)>,
    route: Option<Arc<Route>>,
    principal: OnceLock<Principal>,
    audit: OnceLock<AuditRule>,
    digest: OnceLock<[u8; 32]>,
    subject: OnceLock<String>,
    /// Rejected commands: name and error code.
    rejections: Mutex<Vec<(String, ErrorCode)>>,
}

impl RequestContext {
    /// Takes id and trace from the headers when they are well formed. Otherwise it creates an id and has no trace.
    pub fn from_headers(headers: &HeaderMap, route: Option<Arc<Route>>) -> Self {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        Self(Arc::new(RequestRecord {
            id: text(&REQUEST_ID_HEADER).and_then(RequestId::parse).unwrap_or_else(RequestId::generate),
            traceparent: text(&TRACEPARENT_HEADER).and_then(parse_traceparent),
            tenant: OnceLock::new(),
            route,
            principal: OnceLock::new(),
            audit: OnceLock::new(),
            digest: OnceLock::new(),
            subject: OnceLock::new(),
            rejections: Mutex::default(),
        }))
    }

    /// The request's id.
    pub fn id(&self) -> &RequestId {
        &self.0.id
    }

    /// W3C Trace Context of the request, if it has one.
    pub fn traceparent(&self) -> Option<&str> {
        self.0.traceparent.as_deref()
    }

    /// Sets the tenant. Later calls have no effect.
    pub fn set_tenant(&self, tenant: &TenantRecord) {
        self.0.tenant.get_or_init(|| (tenant.id, tenant.slug.clone()));
    }

    /// The tenant of the request.
    pub fn tenant(&self) -> Option<TenantId> {
        self.0.tenant.get().map(|(id, _)| *id)
    }

    /// The route, where the request has one.
    pub fn route(&self) -> Option<Arc<Route>> {
        self.0.route.clone()
    }

    /// Sets the caller. Later calls have no effect.
    pub fn set_principal(&self, principal: &Principal) {
        self.0.principal.get_or_init(|| principal.clone());
    }

    /// The caller; anonymous until it is set.
    pub fn principal(&self) -> &Principal {
        self.0.principal.get().unwrap_or(&Principal::Anonymous)
    }

    /// Sets the digest of the request, for requests with an idempotency key.
    pub fn set_digest(&self, digest: [u8; 32]) {
        self.0.digest.get_or_init(|| digest);
    }

    /// The digest of the request, for requests with an idempotency key.
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.0.digest.get().copied()
    }

    /// Overrides the route's rule for the activity log.
    pub fn set_audit(&self, audit: AuditRule) {
        self.0.audit.get_or_init(|| audit);
    }

    /// The rule for the activity log that overrides the route's.
    pub fn audit(&self) -> Option<AuditRule> {
        self.0.audit.get().copied()
    }

    /// Sets what the request is about in addition to its path, for the activity log. Later calls have no effect.
    pub fn set_subject(&self, subject: impl Into<String>) {
        self.0.subject.get_or_init(|| subject.into());
    }

    /// What the request is about in addition to its path.
    pub fn subject(&self) -> Option<&str> {
        self.0.subject.get().map(String::as_str)
    }

    /// Adds a rejected command.
    pub fn add_rejection(&self, command: &str, code: ErrorCode) {
        self.lock_rejections().push((command.to_owned(), code));
    }

    /// Removes and returns the rejected commands.
    pub fn take_rejections(&self) -> Vec<(String, ErrorCode)> {
        std::mem::take(&mut self.lock_rejections())
    }

    fn lock_rejections(&self) -> MutexGuard<'_, Vec<(String, ErrorCode)>> {
        self.0.rejections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Ok(parts
            .extensions
            .get::<Self>()
            .cloned()
            .unwrap_or_else(|| Self::from_headers(&parts.headers, None)))
    }
}

/// The layer, for `axum::middleware::from_fn_with_state`.
pub async fn log_request(State(routes): State<RouteTable>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let pattern = request.extensions().get::<MatchedPath>();
    let found = pattern.and_then(|pattern| routes.find(request.method(), pattern.as_str()));
    let context = RequestContext::from_headers(request.headers(), found);
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| Arc::from("unmatched"), |matched| Arc::<str>::from(matched.as_str()));
    request.extensions_mut().insert(context.clone());

    let span = request_span(context.id(), context.traceparent());
    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        span.in_scope(|| log_cause(&problem));
        // Keep headers that a router layer added, such as `Allow`.
        let added = std::mem::take(response.headers_mut());
        response = problem.render(context.id());
        for (name, value) in &added {
            if !response.headers().contains_key(name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
    }
    headers::set_security_headers(response.headers_mut());
    let is_read = context.0.route.as_ref().is_none_or(|route| route.is_read_only());
    let is_graphql = context.0.route.as_ref().is_some_and(|route| route.errors == ErrorFormat::Graphql);
    if !is_read && !is_graphql {
        response.extensions_mut().insert(Uncompressed);
    }
    if let Ok(value) = HeaderValue::from_str(context.id().as_str()) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }

    let status = response.status().as_u16();
    let elapsed = started.elapsed();
    count(&method, &route, status, elapsed.as_secs_f64());
    span.in_scope(|| {
        let line = AccessLine {
            method: Some(&method),
            path: Some(&path),
            status,
            micros: Some(elapsed.as_micros() as u64),
            tenant: context.0.tenant.get().map(|(_, slug)| slug.as_str()),
            user: context.principal().user_id(),
            refused: None,
        };
        line.write();
    });
    response
}

fn log_cause(problem: &Problem) {
    let Some(cause) = problem.logged_cause() else { return };
    let chain = Cause::of(cause).to_string();
    if matches!(problem.code(), ErrorCode::Internal | ErrorCode::KeyMissing) {
        tracing::error!(cause = chain, "request failed");
    } else {
        tracing::warn!(code = problem.code().as_str(), cause = chain, "request refused");
    }
}

fn count(method: &Method, route: &Arc<str>, status: u16, seconds: f64) {
    // A client can send any text as method. A label must have few values.
    let method = match method.as_str() {
        known @ ("GET" | "POST" | "PUT" | "PATCH" | "DELETE" | "HEAD" | "OPTIONS") => known.to_owned(),
        _ => "OTHER".to_owned(),
    };
    let labels = [("method", method), ("route", route.to_string()), ("status", status.to_string())];
    metrics::counter!("http_requests_total", &labels).increment(1);
    metrics::histogram!("http_request_duration_seconds", &labels).record(seconds);
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::super::route::RouteTable;
    use super::*;

    async fn ask(path: &str, id: Option<&str>) -> (Response<()>, String) {
        let router = Router::new()
            .route("/fine", get(|| async { "fine" }))
            .route("/problem", get(|| async { Problem::new(ErrorCode::EmailTaken) }))
            .layer(from_fn_with_state(RouteTable::default(), log_request));
        let mut request = axum::http::Request::get(path);
        if let Some(id) = id {
            request = request.header(REQUEST_ID_HEADER, id);
        }
        let response = router.oneshot(request.body(Body::empty()).expect("valid")).await.expect("infallible");
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 10_000).await.expect("a small body");
        (Response::from_parts(parts, ()), String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn a_well_formed_request_id_comes_back_and_another_is_replaced() {
        let (response, _) = ask("/fine", Some("abc-1")).await;
        assert_eq!(response.headers()[REQUEST_ID_HEADER], "abc-1");
        for bad in [None, Some("a b"), Some("")] {
            let (response, _) = ask("/fine", bad).await;
            let given = response.headers()[REQUEST_ID_HEADER].to_str().expect("ASCII");
            assert!(RequestId::parse(given).is_some() && Some(given) != bad);
        }
    }

    #[tokio::test]
    async fn a_problem_gets_its_body_and_every_answer_its_headers() {
        let (response, body) = ask("/problem", Some("p-2")).await;
        assert_eq!(response.status().as_u16(), 409);
        assert!(body.contains("email_taken") && body.contains("\"request_id\":\"p-2\""));
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    }
}
