//! Compression of answers, where the client accepts it (RFC 9110, section 12.5.3): Brotli and gzip.

use axum::http::{Extensions, HeaderMap, StatusCode, Version};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{And, NotForContentType, Predicate, SizeAbove};

/// Smaller answers gain nothing: they fit into one packet either way.
const COMPRESSED_BYTES_MIN: u64 = 1_024;

/// In the extensions of a response: it is sent as it is. Answers to writes are such: they may hold a secret beside text that
/// the client chose, and the compressed length of the two tells of the secret (BREACH, CVE-2013-3587).
#[derive(Debug, Clone, Copy)]
pub struct Uncompressed;

/// Which answers are compressed.
pub type Compressible =
    And<And<SizeAbove, NotForContentType>, fn(StatusCode, Version, &HeaderMap, &Extensions) -> bool>;

/// The layer. It stands outermost, where problems have their bodies. Streams of events are left alone: a compressor would
/// hold them back.
pub fn layer() -> CompressionLayer<Compressible> {
    let may_be: fn(StatusCode, Version, &HeaderMap, &Extensions) -> bool =
        |_, _, _, extensions| extensions.get::<Uncompressed>().is_none();
    let compressible = SizeAbove::new(COMPRESSED_BYTES_MIN).and(NotForContentType::SSE).and(may_be);
    CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(compressible)
}
