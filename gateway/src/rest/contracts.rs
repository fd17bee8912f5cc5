//! `GET /asyncapi.json`: the contract of the published events.

use axum::http::{Method, header};
use axum::response::IntoResponse;

use crate::http::route::Route;
use crate::routes::Routes;

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    routes.add(Route::public(Method::GET, "/asyncapi.json"), asyncapi)
}

/// The committed document.
async fn asyncapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], schemas::contracts::ASYNCAPI)
}
