//! The claims of tokens whose signature was verified, by the digest of the token. A signature takes 30 times as long to
//! verify as a look-up.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use moka::sync::Cache;

use super::tokens::Claims;

/// How long a verified token stays in the cache. Verifying it again does not extend this.
const VERIFIED_TOKENS_TTL: Duration = Duration::from_mins(1);
/// Maximum bytes of the cache; beyond it, rarely used tokens are dropped.
const VERIFIED_TOKENS_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Bytes of an entry besides the texts of its claims.
const ENTRY_BYTES: usize = 512;

/// The SHA-256 digest of a token.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub(super) fn of(token: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }
}

struct VerifiedToken {
    claims: Arc<Claims>,
    bytes: u32,
}

/// A bounded cache. The caller checks expiry and audience at each use.
pub(super) struct VerifiedTokens(Cache<TokenDigest, Arc<VerifiedToken>>);

impl VerifiedTokens {
    pub(super) fn new() -> Self {
        Self::with_capacity(VERIFIED_TOKENS_BYTES_MAX)
    }

    fn with_capacity(bytes: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(bytes)
            .weigher(|_, entry: &Arc<VerifiedToken>| entry.bytes)
            .time_to_live(VERIFIED_TOKENS_TTL)
            .build();
        Self(cache)
    }

    pub(super) fn get(&self, digest: &TokenDigest) -> Option<Arc<Claims>> {
        self.0.get(digest).map(|entry| Arc::clone(&entry.claims))
    }

    /// Keeps the claims of a token of so many bytes. The claims are no longer than their token.
    pub(super) fn insert(&self, digest: TokenDigest, token_bytes: usize, claims: &Arc<Claims>) {
        let bytes = (token_bytes + ENTRY_BYTES) as u32;
        self.0.insert(digest, Arc::new(VerifiedToken { claims: Arc::clone(claims), bytes }));
    }
}

#[cfg(test)]
mod tests {
    use schemas::engine::TenantSlug;
    use schemas::engine::ids::{PLATFORM, random_id};
    use schemas::identity::tenant::Tier;

    use super::*;

    fn claims() -> Arc<Claims> {
        Arc::new(Claims {
            iss: "annals".to_owned(),
            aud: Vec::new(),
            sub: random_id(),
            tid: PLATFORM,
            tenant: TenantSlug::parse("demo").expect("valid"),
            email: "ada@example.com".to_owned(),
            name: "Ada".to_owned(),
            roles: Vec::new(),
            scopes: Vec::new(),
            subscription_tier: Tier::Free,
            iat: 0,
            exp: 0,
            jti: random_id(),
        })
    }

    #[test]
    fn the_cache_is_bounded_in_bytes() {
        let (bytes_max, token_bytes) = (100_000, 500);
        let cache = VerifiedTokens::with_capacity(bytes_max);
        for number in 0..1_000 {
            cache.insert(TokenDigest::of(&number.to_string()), token_bytes, &claims());
        }
        cache.0.run_pending_tasks();
        assert!(cache.0.weighted_size() <= bytes_max);
        let kept = cache.0.entry_count();
        assert!(kept > 0 && kept <= bytes_max / (token_bytes + ENTRY_BYTES) as u64, "{kept}");
    }
}
