//! `GET /asyncapi.json`: how events leave the product.

use axum::http::header;
use axum::response::IntoResponse;

/// The document as it is committed.
pub async fn asyncapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], schemas::contracts::ASYNCAPI)
}
