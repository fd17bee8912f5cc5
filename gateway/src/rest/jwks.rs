//! `GET /.well-known/jwks.json`: the public keys that other programs use to verify access tokens.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, Method, header};
use axum::response::IntoResponse;

use crate::auth::Tokens;
use crate::http::route::Route;
use crate::routes::Routes;

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    routes.add(Route::public(Method::GET, "/.well-known/jwks.json"), keys)
}

/// The key set. Clients may cache it for five minutes.
async fn keys(State(tokens): State<Tokens>) -> impl IntoResponse {
    let kept = HeaderValue::from_static("public, max-age=300");
    ([(header::CACHE_CONTROL, kept)], Json(tokens.jwks()))
}
