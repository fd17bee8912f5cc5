//! `GET /.well-known/jwks.json`: the public keys that other programs use to verify access tokens.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;

use crate::state::Gateway;

/// The key set. Clients may cache it for five minutes.
pub async fn keys(State(gateway): State<Gateway>) -> impl IntoResponse {
    let kept = HeaderValue::from_static("public, max-age=300");
    ([(header::CACHE_CONTROL, kept)], Json(gateway.tokens.jwks()))
}
