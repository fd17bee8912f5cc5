//! Whether a service's token still counts. Unlike a user's, it lives for months, so what its stream says is looked up:
//! a revocation reaches every process within [`REVOCATION_CACHE_TTL`], and streams that are open within [`REVOCATION_POLL_INTERVAL`].

use std::time::Duration;

use commands::{Executor, ServiceToken};
use moka::sync::Cache;
use schemas::engine::TenantId;
use uuid::Uuid;

use super::tokens::Claims;
use crate::http::{ErrorCode, Problem};

/// How long it is believed that a token counts.
const REVOCATION_CACHE_TTL: Duration = Duration::from_secs(2);
const REVOCATION_CACHE_CAPACITY: u64 = 10_000;
/// How often an open stream looks whether its token still counts.
const REVOCATION_POLL_INTERVAL: Duration = Duration::from_secs(3);

/// Looks up service tokens.
pub struct ServiceTokens {
    executor: Executor,
    valid_tokens: Cache<(TenantId, Uuid), ()>,
}

impl ServiceTokens {
    /// Looks in the executor's store.
    pub fn new(executor: Executor) -> Self {
        let valid_tokens = Cache::builder()
            .max_capacity(REVOCATION_CACHE_CAPACITY)
            .time_to_live(REVOCATION_CACHE_TTL)
            .build();
        Self { executor, valid_tokens }
    }

    /// 401 where the claims are those of a service whose token was taken back. Claims of users pass.
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

    /// Ends when the claims do not count any more, by a revocation; never for users.
    pub async fn wait_until_revoked(&self, claims: &Claims) {
        if !claims.is_service() {
            return std::future::pending().await;
        }
        let mut polls = tokio::time::interval(REVOCATION_POLL_INTERVAL);
        loop {
            polls.tick().await;
            // What cannot be looked up now may count; requests are refused meanwhile for another reason.
            if self.check(claims).await.is_err_and(|problem| problem.code() == ErrorCode::Unauthenticated) {
                return;
            }
        }
    }

    /// The next look is a look at the log.
    pub fn invalidate(&self, tenant: TenantId, id: Uuid) {
        self.valid_tokens.invalidate(&(tenant, id));
    }
}
