//! CORS (Fetch standard): only pages of the configured origins may read responses of the gateway. Preflight requests
//! are answered here and reach no handler.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use tower::{Layer, ServiceExt};
use tower_http::cors::{AllowOrigin, CorsLayer, Vary};

use super::consistency::CONSISTENCY_HEADER;
use super::idempotency::IDEMPOTENCY_KEY_HEADER;
use super::origin::AllowedOrigins;
use super::request_log::{REQUEST_ID_HEADER, TRACEPARENT_HEADER};
use super::tenancy::TENANT_HEADER;
use crate::rest::audit::POSITIONS_HEADER;

/// How long a browser may cache a preflight response.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_hours(1);

/// The configured origins and the methods and headers that their pages may use. Cheap to clone.
#[derive(Clone)]
pub struct Cors {
    allowed_origins: Arc<[HeaderValue]>,
    layer: CorsLayer,
}

impl Cors {
    /// Uses the configured origins.
    pub fn new(origins: &AllowedOrigins) -> Self {
        // Browsers send origins in lower case. A value that is not valid in a header cannot be an origin.
        let origin =
            |allowed_origins: &String| HeaderValue::from_str(&allowed_origins.to_ascii_lowercase()).ok();
        let allowed_origins: Vec<HeaderValue> = origins.listed().iter().filter_map(origin).collect();
        let layer = CorsLayer::new()
            .allow_origin(AllowOrigin::list(allowed_origins.clone()))
            .allow_credentials(true)
            .allow_methods([
                Method::GET,
                Method::HEAD,
                Method::POST,
                Method::PUT,
                Method::PATCH,
                Method::DELETE,
            ])
            .allow_headers([
                header::ACCEPT,
                header::AUTHORIZATION,
                header::CACHE_CONTROL,
                header::CONTENT_TYPE,
                IDEMPOTENCY_KEY_HEADER,
                TENANT_HEADER,
                CONSISTENCY_HEADER,
                REQUEST_ID_HEADER,
                HeaderName::from_static("last-event-id"),
                TRACEPARENT_HEADER,
                HeaderName::from_static("tracestate"),
            ])
            .expose_headers([
                header::ALLOW,
                header::CONTENT_DISPOSITION,
                header::RETRY_AFTER,
                header::WWW_AUTHENTICATE,
                POSITIONS_HEADER,
                REQUEST_ID_HEADER,
            ])
            .max_age(PREFLIGHT_MAX_AGE)
            .vary(Vary::list([header::ORIGIN]));
        Self { allowed_origins: allowed_origins.into(), layer }
    }
}

/// The layer, for `axum::middleware::from_fn_with_state`.
pub async fn cors_layer(State(cors): State<Cors>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN);
    if origin.is_some_and(|origin| cors.allowed_origins.contains(origin)) {
        return match cors.layer.layer(next).oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
    }
    let mut response = next.run(request).await;
    // The response depends on `Origin`, so a cache must keep one for each origin.
    response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
    response
}
