//! Response headers that every answer carries unless its handler chose otherwise.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

const DEFAULT_HEADERS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Adds what is missing.
pub fn set_security_headers(headers: &mut HeaderMap) {
    for (name, value) in DEFAULT_HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

/// A year, as browsers' preload lists ask for. Without `includeSubDomains`: every tenant's subdomain is served by this
/// gateway and sends its own, and what else is below the host is not ours to decide.
const HSTS_VALUE: &str = "max-age=31536000";

/// Tells browsers to ask this host by HTTPS only (RFC 6797). For answers to clients that came by HTTPS.
pub fn set_hsts(headers: &mut HeaderMap) {
    headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(HSTS_VALUE));
}
