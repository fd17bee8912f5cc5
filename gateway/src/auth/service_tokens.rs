//! Checks whether a service's token is revoked. Such a token is valid for months, so its stream is looked up. A
//! revocation takes effect in every process within `REVOCATION_CACHE_TTL`, and on open streams within
//! `REVOCATION_POLL_INTERVAL`.

use std::time::Duration;

use access::ErrorCode;
use commands::{Executor, ServiceToken};
use moka::sync::Cache;
use schemas::engine::TenantId;
use uuid::Uuid;

use super::tokens::Claims;
use crate::http::problem::Problem;

/// How long a lookup is cached.
const REVOCATION_CACHE_TTL: Duration = Duration::from_secs(2);
const REVOCATION_CACHE_CAPACITY: u64 = 10_000;
/// How often an open stream checks its token.
const REVOCATION_POLL_INTERVAL: Duration = Duration::from_secs(3);

/// Looks up service tokens in the log. Cheap to clone.
#[derive(Clone)]
pub struct ServiceTokens {
    executor: Executor,
    valid_tokens: Cache<(TenantId, Uuid), ()>,
}

impl ServiceTokens {
    /// Uses the executor's store.
    pub fn new(executor: Executor) -> Self {
        let valid_tokens = Cache::builder()
            .max_capacity(REVOCATION_CACHE_CAPACITY)
            .time_to_live(REVOCATION_CACHE_TTL)
            .build();
        Self { executor, valid_tokens }
    }

    /// Checks a service's token. Tokens of users always pass.
    ///
    /// # Errors
    /// 401 when the token is revoked.
    pub async fn check(&self, claims: &Claims) -> Result<(), Problem> {
        let key = (claims.tid, claims.sub);
        if !claims.is_service() || self.valid_tokens.contains_key(&key) {
            return Ok(());
        }
        let token = self.executor.load::<ServiceToken>(claims.tid, claims.sub).await?;
        if token.is_none_or(|(token, _)| token.revoked) {
            return Err(Problem::new(ErrorCode::Unauthenticated)
                .detail("the access token was revoked")
                .with_rejected_token());
        }
        self.valid_tokens.insert(key, ());
        Ok(())
    }

    /// Waits until the token is revoked. Never returns for users.
    pub async fn wait_until_revoked(&self, claims: &Claims) {
        if !claims.is_service() {
            return std::future::pending().await;
        }
        let mut polls = tokio::time::interval(REVOCATION_POLL_INTERVAL);
        loop {
            polls.tick().await;
            // A failed lookup does not end the stream: the token may be valid, and new requests fail with another
            // error.
            if self.check(claims).await.is_err_and(|problem| problem.code() == ErrorCode::Unauthenticated) {
                return;
            }
        }
    }

    /// Removes a token from the cache, so the next check reads the log.
    pub fn invalidate(&self, tenant: TenantId, id: Uuid) {
        self.valid_tokens.invalidate(&(tenant, id));
    }
}
