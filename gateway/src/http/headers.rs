//! Security headers. Every response has them unless its handler set other values.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

const DEFAULT_HEADERS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Adds the headers that are missing.
pub fn set_security_headers(headers: &mut HeaderMap) {
    for (name, value) in DEFAULT_HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

/// One year in seconds, which browsers' preload lists require. Without `includeSubDomains`: this gateway serves the
/// subdomains of the tenants, and each response sets the header. Other subdomains of the host may belong to other
/// services.
const HSTS_VALUE: &str = "max-age=31536000";

/// Makes browsers use HTTPS for this host (RFC 6797). For responses to clients that connected by HTTPS.
pub fn set_hsts(headers: &mut HeaderMap) {
    headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(HSTS_VALUE));
}
