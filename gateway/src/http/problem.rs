//! Errors as clients get them: `application/problem+json` (RFC 9457) with a stable code. A handler returns a
//! [`Problem`] as a response extension. [`request_log`](super::request_log) writes the body, because it has the request
//! id.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use access::ErrorCode;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemas::engine::{InvalidValue, RequestId};
use serde::Serialize;
use serde_json::json;

/// The HTTP status of a code.
pub fn status_of(code: ErrorCode) -> StatusCode {
    StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The error of one field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The field's name. Nested names are joined with dots.
    pub field: String,
    /// A stable code in snake case.
    pub code: &'static str,
    /// A message in English.
    pub message: String,
}

impl FieldError {
    /// An error of `field`.
    pub fn new(field: impl Into<String>, problem: InvalidValue) -> Self {
        Self { field: field.into(), code: problem.code, message: problem.message }
    }
}

/// A failed request.
#[derive(Clone)]
pub struct Problem(Box<ProblemParts>);

#[derive(Clone)]
struct ProblemParts {
    code: ErrorCode,
    detail: Option<Cow<'static, str>>,
    errors: Vec<FieldError>,
    actual_version: Option<u64>,
    cause: Option<Arc<dyn Error + Send + Sync>>,
    token_given: bool,
    for_graphql: bool,
    allow: Option<HeaderValue>,
}

impl Problem {
    /// A problem that has only a code.
    pub fn new(code: ErrorCode) -> Self {
        Self(Box::new(ProblemParts {
            code,
            detail: None,
            errors: Vec::new(),
            actual_version: None,
            cause: None,
            token_given: false,
            for_graphql: false,
            allow: None,
        }))
    }

    /// A malformed request: 400 with a sentence that gives the reason.
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::BadRequest).detail(detail)
    }

    /// Invalid values: 422 with an error for each field.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let mut problem = Self::new(ErrorCode::Invalid).detail("some fields are not valid");
        problem.0.errors = errors;
        problem
    }

    /// One invalid value: 422.
    pub fn invalid_field(field: &str, problem: InvalidValue) -> Self {
        Self::invalid(vec![FieldError::new(field, problem)])
    }

    /// An internal error: 500. The cause is logged and not sent to the client.
    pub fn internal(cause: impl Error + Send + Sync + 'static) -> Self {
        Self::new(ErrorCode::Internal).cause(cause)
    }

    /// A dependency is down or the server is overloaded: 503. The client may retry.
    pub fn unavailable(cause: impl Error + Send + Sync + 'static) -> Self {
        Self::new(ErrorCode::Unavailable).cause(cause)
    }

    /// Adds a sentence for the client's developers.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Adds a cause that is logged.
    #[must_use]
    pub fn cause(mut self, cause: impl Error + Send + Sync + 'static) -> Self {
        self.0.cause = Some(Arc::new(cause));
        self
    }

    /// Adds field errors.
    #[must_use]
    pub fn errors(mut self, errors: Vec<FieldError>) -> Self {
        self.0.errors = errors;
        self
    }

    /// Adds the actual version of the stream, for a version conflict.
    #[must_use]
    pub fn actual_version(mut self, version: u64) -> Self {
        self.0.actual_version = Some(version);
        self
    }

    /// Marks that a token was sent and is invalid (RFC 6750). Without the mark the client sent no token.
    #[must_use]
    pub fn with_rejected_token(mut self) -> Self {
        self.0.token_given = true;
        self
    }

    /// Marks that the response goes to a GraphQL client, so `errors` takes the shape of GraphQL.
    #[must_use]
    pub fn for_graphql(mut self) -> Self {
        self.0.for_graphql = true;
        self
    }

    /// Adds the methods that the route supports, for `Allow` (RFC 9110, section 15.5.6).
    #[must_use]
    pub fn allow(mut self, methods: HeaderValue) -> Self {
        self.0.allow = Some(methods);
        self
    }

    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// The errors of single fields.
    pub fn field_errors(&self) -> &[FieldError] {
        &self.0.errors
    }

    /// The cause to log, if there is one.
    pub fn logged_cause(&self) -> Option<&(dyn Error + Send + Sync + 'static)> {
        self.0.cause.as_deref()
    }

    /// The sentence for the client's developers.
    pub fn message(&self) -> &str {
        self.0.detail.as_deref().unwrap_or(self.0.code.title())
    }

    /// The response with its body and the request id.
    pub fn render(&self, request_id: &RequestId) -> Response {
        let code = self.0.code;
        let (name, status, title) = (code.as_str(), status_of(code), code.title());
        let errors = if self.0.for_graphql {
            json!([{
                "message": self.message(),
                "extensions": { "code": code.graphql_top_level(), "requestId": request_id.as_str() },
            }])
        } else {
            json!(self.0.errors)
        };
        let body = ProblemBody {
            kind: format!("urn:annals:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: self.message(),
            code: name,
            request_id,
            errors,
            actual_version: self.0.actual_version,
        };
        let body = serde_json::to_string(&body).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            let challenge = if self.0.token_given {
                "Bearer realm=\"annals\", error=\"invalid_token\""
            } else {
                "Bearer realm=\"annals\""
            };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(allow) = &self.0.allow {
            headers.insert(header::ALLOW, allow.clone());
        }
        response
    }
}

#[derive(Serialize)]
struct ProblemBody<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    request_id: &'a RequestId,
    errors: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    actual_version: Option<u64>,
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Problem")
            .field("code", &self.0.code)
            .field("detail", &self.0.detail)
            .field("errors", &self.0.errors)
            .finish_non_exhaustive()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = status_of(self.0.code).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    async fn body_of(problem: &Problem) -> (Response<()>, serde_json::Value) {
        let id = RequestId::parse("r-1").expect("well formed");
        let (parts, body) = problem.render(&id).into_parts();
        let bytes = to_bytes(body, 10_000).await.expect("a small body");
        (Response::from_parts(parts, ()), serde_json::from_slice(&bytes).expect("JSON"))
    }

    #[tokio::test]
    async fn a_problem_has_all_members_and_the_request_id() {
        let problem =
            Problem::invalid_field("email", InvalidValue::new("email_invalid", "must be an address"));
        let (response, body) = body_of(&problem).await;
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(body["code"], "invalid");
        assert_eq!(body["status"], 422);
        assert_eq!(body["request_id"], "r-1");
        assert_eq!(
            body["errors"],
            json!([{"field": "email", "code": "email_invalid", "message": "must be an address"}])
        );
        for member in ["type", "title", "detail"] {
            assert!(body[member].is_string(), "{member}");
        }
    }

    #[tokio::test]
    async fn a_cause_never_reaches_the_client() {
        let (response, body) = body_of(&Problem::internal(std::io::Error::other("password=hunter2"))).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!body.to_string().contains("hunter2"));
    }

    #[tokio::test]
    async fn unavailable_says_when_to_come_again_and_a_refused_token_says_so() {
        let (response, _) = body_of(&Problem::new(ErrorCode::Unavailable)).await;
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        let (response, _) = body_of(&Problem::new(ErrorCode::Unauthenticated).with_rejected_token()).await;
        let challenge = response.headers()[header::WWW_AUTHENTICATE].to_str().expect("ASCII");
        assert!(challenge.contains("invalid_token"));
    }

    #[tokio::test]
    async fn a_graphql_client_finds_its_own_error_shape() {
        let (_, body) = body_of(&Problem::new(ErrorCode::TenantMismatch).for_graphql()).await;
        assert_eq!(body["code"], "tenant_mismatch");
        assert_eq!(body["errors"][0]["extensions"]["code"], "FORBIDDEN");
        assert_eq!(body["errors"][0]["extensions"]["requestId"], "r-1");
    }

    #[tokio::test]
    async fn a_version_conflict_names_the_actual_version() {
        let (response, body) = body_of(&Problem::new(ErrorCode::VersionConflict).actual_version(7)).await;
        assert_eq!((response.status(), &body["actual_version"]), (StatusCode::CONFLICT, &json!(7)));
    }
}
