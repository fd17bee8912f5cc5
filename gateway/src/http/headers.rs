//! Response headers that every answer carries unless its handler chose otherwise.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

const DEFAULTS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Adds what is missing.
pub fn secure(headers: &mut HeaderMap) {
    for (name, value) in DEFAULTS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

/// A year, as browsers' preload lists ask for. Without `includeSubDomains`: every tenant's subdomain is served by this
/// gateway and sends its own, and what else is below the host is not ours to decide.
const HTTPS_ONLY: &str = "max-age=31536000";

/// Tells browsers to ask this host by HTTPS only (RFC 6797). For answers to clients that came by HTTPS.
pub fn require_https(headers: &mut HeaderMap) {
    headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(HTTPS_ONLY));
}
