//! Whether a service's token still counts. Unlike a user's, it lives for months, so what its stream says is looked up:
//! a revocation reaches every process within [`REMEMBERED_FOR`], and streams that are open within [`LOOKS`].

use std::time::Duration;

use commands::{Executor, ServiceToken};
use moka::sync::Cache;
use schemas::engine::TenantId;
use uuid::Uuid;

use super::tokens::Claims;
use crate::http::{ErrorCode, Problem};

/// How long it is believed that a token counts.
const REMEMBERED_FOR: Duration = Duration::from_secs(2);
const REMEMBERED: u64 = 10_000;
/// How often an open stream looks whether its token still counts.
const LOOKS: Duration = Duration::from_secs(3);

/// Looks up service tokens.
pub struct ServiceTokens {
    executor: Executor,
    live: Cache<(TenantId, Uuid), ()>,
}

impl ServiceTokens {
    /// Looks in the executor's store.
    pub fn new(executor: Executor) -> Self {
        let live = Cache::builder().max_capacity(REMEMBERED).time_to_live(REMEMBERED_FOR).build();
        Self { executor, live }
    }

    /// 401 where the claims are those of a service whose token was taken back. Claims of users pass.
    pub async fn check(&self, claims: &Claims) -> Result<(), Problem> {
        let key = (claims.tid, claims.sub);
        if !claims.is_service() || self.live.contains_key(&key) {
            return Ok(());
        }
        let token = self.executor.load::<ServiceToken>(claims.tid, claims.sub).await?;
        if token.is_none_or(|(token, _)| token.revoked) {
            return Err(Problem::new(ErrorCode::Unauthenticated)
                .detail("the access token was revoked")
                .token_was_given());
        }
        self.live.insert(key, ());
        Ok(())
    }

    /// Ends when the claims do not count any more, by a revocation; never for users.
    pub async fn revoked(&self, claims: &Claims) {
        if !claims.is_service() {
            return std::future::pending().await;
        }
        let mut looks = tokio::time::interval(LOOKS);
        loop {
            looks.tick().await;
            // What cannot be looked up now may count; requests are refused meanwhile for another reason.
            if self.check(claims).await.is_err_and(|problem| problem.code() == ErrorCode::Unauthenticated) {
                return;
            }
        }
    }

    /// The next look is a look at the log.
    pub fn forget(&self, tenant: TenantId, id: Uuid) {
        self.live.invalidate(&(tenant, id));
    }
}
