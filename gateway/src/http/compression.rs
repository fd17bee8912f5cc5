//! Compresses responses with Brotli or gzip when the client accepts it (RFC 9110, section 12.5.3).

use axum::http::{Extensions, HeaderMap, StatusCode, Version};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{And, NotForContentType, Predicate, SizeAbove};

/// Minimum size of a compressed response in bytes. A smaller one fits into one packet without compression.
const COMPRESSED_BYTES_MIN: u64 = 1_024;

/// A response extension that turns compression off. Responses to writes have it: they may hold a secret beside text
/// that the client chose. The compressed length would then reveal the secret (BREACH, CVE-2013-3587).
#[derive(Debug, Clone, Copy)]
pub struct Uncompressed;

/// The condition under which a response is compressed.
pub type Compressible =
    And<And<SizeAbove, NotForContentType>, fn(StatusCode, Version, &HeaderMap, &Extensions) -> bool>;

/// The layer. It is the outermost one, because problems get their bodies below it. Event streams are not compressed: a
/// compressor would delay their events.
pub fn layer() -> CompressionLayer<Compressible> {
    let may_be: fn(StatusCode, Version, &HeaderMap, &Extensions) -> bool =
        |_, _, _, extensions| extensions.get::<Uncompressed>().is_none();
    let compressible = SizeAbove::new(COMPRESSED_BYTES_MIN).and(NotForContentType::SSE).and(may_be);
    CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(compressible)
}
