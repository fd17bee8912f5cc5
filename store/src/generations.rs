//! Guesses of the generations of read models. A guess must be verified in the transaction that reads.

use moka::sync::Cache;
use schemas::engine::TenantId;

/// Cached generations of read models. A cached value is a first guess and must be verified.
pub(crate) struct Generations(pub(crate) Cache<(TenantId, &'static str), u64>);

impl Default for Generations {
    fn default() -> Self {
        Self(Cache::new(100_000))
    }
}
