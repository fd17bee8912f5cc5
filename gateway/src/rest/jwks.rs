//! `GET /.well-known/jwks.json`: the public keys with which others verify access tokens.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;

use crate::state::Gateway;

/// The key set. It may be kept for five minutes.
pub async fn keys(State(gateway): State<Gateway>) -> impl IntoResponse {
    let kept = HeaderValue::from_static("public, max-age=300");
    ([(header::CACHE_CONTROL, kept)], Json(gateway.tokens.jwks()))
}
