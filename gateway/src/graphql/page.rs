//! `GET /graphql`: in development a small page to try queries with; elsewhere the same answer as for any unknown route.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::http::{ErrorCode, Problem};

const PAGE: &str = include_str!("page/page.html");
const SCRIPT: &str = include_str!("page/page.js");

/// The page. It needs nothing from elsewhere.
pub async fn show() -> Response {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, SCRIPT.as_bytes());
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'unsafe-inline'; connect-src 'self'; \
         frame-ancestors 'none'",
        STANDARD.encode(digest.as_ref())
    );
    let page = PAGE.replace("{{script}}", SCRIPT);
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    let mut response = ([(header::CONTENT_TYPE, html)], page).into_response();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// No page here: only `POST` asks questions.
pub async fn hidden() -> Problem {
    Problem::new(ErrorCode::MethodNotAllowed).allow(HeaderValue::from_static("POST"))
}
