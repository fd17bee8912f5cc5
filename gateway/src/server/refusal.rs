//! Requests that are refused before they reach a handler: invalid HTTP, answered with problems (RFC 9457).

use access::ErrorCode;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use schemas::engine::RequestId;
use serde_json::json;

use crate::http;
use crate::http::problem::status_of;

const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The refusal of a request or a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRefusal {
    code: ErrorCode,
    detail: &'static str,
}

impl RequestRefusal {
    /// Not valid HTTP/1.1 (RFC 9112).
    pub const MALFORMED: Self = Self::bad_request(
        "the request is not well-formed HTTP/1.1: its request line, a header field or its framing",
    );
    pub const HOST_MISSING: Self = Self::bad_request("the header field Host is missing");
    pub const HOST_REPEATED: Self = Self::bad_request("the header field Host must be given once");
    pub const HOST_INVALID: Self =
        Self::bad_request("the header field Host is no host with an optional port");
    pub const HEADER_TIMEOUT: Self = Self {
        code: ErrorCode::RequestTimeout,
        detail: "the request line and header fields did not arrive in time",
    };
    pub const TARGET_TOO_LONG: Self =
        Self { code: ErrorCode::UriTooLong, detail: "the request target is too long" };
    pub const HEADERS_TOO_LARGE: Self = Self {
        code: ErrorCode::HeadersTooLarge,
        detail: "the request line and header fields may have 32 KiB and 100 fields",
    };
    pub const TOO_MANY_CONNECTIONS: Self =
        Self { code: ErrorCode::Unavailable, detail: "too many connections are open" };

    const fn bad_request(detail: &'static str) -> Self {
        Self { code: ErrorCode::BadRequest, detail }
    }

    /// The refusal that matches the status of a response that hyper wrote by itself.
    pub fn of_status(status: &[u8]) -> Option<Self> {
        match status {
            b"400" => Some(Self::MALFORMED),
            b"414" => Some(Self::TARGET_TOO_LONG),
            b"431" => Some(Self::HEADERS_TOO_LARGE),
            _ => None,
        }
    }

    /// The response. The connection closes after it.
    pub fn response(self, id: &RequestId) -> Response {
        let mut response = Response::new(Body::from(self.body(id)));
        *response.status_mut() = self.status();
        *response.headers_mut() = self.headers(id);
        response
    }

    /// The response as bytes, for a connection whose request was not parsed.
    pub fn to_bytes(self, id: &RequestId) -> Bytes {
        let body = self.body(id);
        let status = self.status();
        let reason = status.canonical_reason().unwrap_or_default();
        let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
        let mut headers = self.headers(id);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        for (name, value) in &headers {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body.as_bytes());
        bytes.into()
    }

    /// The stable code.
    pub fn code(self) -> ErrorCode {
        self.code
    }

    /// The HTTP status of the code.
    pub fn status(self) -> StatusCode {
        status_of(self.code)
    }

    fn body(self, id: &RequestId) -> String {
        let code = self.code.as_str();
        let body = json!({
            "type": format!("urn:annals:problem:{code}"),
            "title": self.code.title(),
            "status": self.code.status(),
            "detail": self.detail,
            "code": code,
            "request_id": id,
            "errors": [],
        });
        body.to_string()
    }

    fn headers(self, id: &RequestId) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        if let Ok(id) = HeaderValue::from_str(id.as_str()) {
            headers.insert(REQUEST_ID_HEADER, id);
        }
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        http::headers::set_security_headers(&mut headers);
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_answers_with_the_status_that_its_code_has() {
        for status in ["400", "414", "431"] {
            let refusal = RequestRefusal::of_status(status.as_bytes()).expect("the library's own");
            assert_eq!(refusal.code.status().to_string(), status);
        }
        let id = RequestId::generate();
        for (refusal, status) in
            [(RequestRefusal::HEADER_TIMEOUT, 408), (RequestRefusal::TOO_MANY_CONNECTIONS, 503)]
        {
            assert_eq!(refusal.response(&id).status().as_u16(), status);
        }
    }
}
