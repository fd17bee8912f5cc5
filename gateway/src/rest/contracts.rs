//! `GET /asyncapi.json`: the contract of the published events.

use axum::http::header;
use axum::response::IntoResponse;

/// The committed document.
pub async fn asyncapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], schemas::contracts::ASYNCAPI)
}
