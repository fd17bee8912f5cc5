//! Fresh authority: a write that cannot be undone or that outlives a token is authorised by the caller's own events,
//! not by its token.
//!
//! A token stays valid for minutes after its user was demoted or deactivated.
//! So such a write holds the tenant's administration lock in shared mode, from reading the caller's events to its
//! commit.
//! A demotion holds the same lock exclusively. Therefore a write either commits before the demotion, or sees it.

use std::time::Duration;

use access::{Permission, Principal};
use schemas::engine::{TenantId, clock, ids};
use schemas::identity::role::Role;
use schemas::identity::user::UserStatus;
use store::{LockMode, StoreError, TenantLock};
use tokio::sync::OwnedSemaphorePermit;

use super::user::User;
use crate::engine::executor::Executor;
use crate::engine::outcome::ExecuteError;
use crate::integration::service_token::ServiceToken;

/// The lock that writes with fresh authority share, and that changes of authority hold exclusively.
const LOCK_NAME: &str = "administration";
/// Maximum attempts to take the lock. Afterwards the caller gets [`AuthorityError::Busy`].
const LOCK_ATTEMPTS_MAX: u32 = 40;
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(25);

/// Proof that the caller has the permission by its own events. The permission cannot be removed while the value exists.
///
/// Call [`release`](Self::release) when the write has committed. If the value is dropped, the lock ends with its
/// connection.
pub struct FreshAuthority {
    tenant: TenantId,
    principal: Principal,
    lock: TenantLock,
    _permit: OwnedSemaphorePermit,
}

/// Why fresh authority was not confirmed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The caller's events do not give it the permission.
    #[error("the caller may not do this")]
    Forbidden,
    /// The administration lock was not free in time.
    #[error("the tenant's administration is busy")]
    Busy,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FreshAuthority {
    /// Confirms a permission for a write that runs concurrently with other such writes.
    ///
    /// # Errors
    /// [`AuthorityError::Forbidden`] if the caller does not have the permission any more.
    pub async fn acquire(
        executor: &Executor,
        tenant: TenantId,
        principal: &Principal,
        permission: &Permission,
    ) -> Result<Self, AuthorityError> {
        let is_permitted = |current: &Principal| permission.is_held_by(current);
        Self::confirm(executor, tenant, principal, LockMode::Shared, is_permitted).await
    }

    /// Confirms the condition `is_permitted` on the caller's current roles and scopes.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub async fn confirm(
        executor: &Executor,
        tenant: TenantId,
        principal: &Principal,
        mode: LockMode,
        is_permitted: impl Fn(&Principal) -> bool,
    ) -> Result<Self, AuthorityError> {
        let (lock, permit) = lock(executor, tenant, mode).await?;
        let principal = current(executor, tenant, principal).await?;
        if is_permitted(&principal) {
            Ok(Self { tenant, principal, lock, _permit: permit })
        } else {
            Err(AuthorityError::Forbidden)
        }
    }

    /// The caller with its current roles and scopes.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The tenant whose administration is locked.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Releases the lock. If the database does not answer, the lock ends with its connection.
    pub async fn release(self) {
        drop(self.lock.end().await);
    }
}

/// The caller with the rights that its own events give it. A missing or deactivated user has none; a service has none
/// if its token was revoked or has expired.
///
/// # Errors
/// [`StoreError`] if the events cannot be read.
pub async fn current(
    executor: &Executor,
    tenant: TenantId,
    principal: &Principal,
) -> Result<Principal, StoreError> {
    match principal {
        Principal::System(_) | Principal::Anonymous => Ok(principal.clone()),
        Principal::User { id, .. } => {
            let user = executor.load::<User>(tenant, *id).await?.map(|(user, _)| user);
            let roles = user.filter(|user| user.status != UserStatus::Deactivated).map(|user| user.roles);
            Ok(Principal::user(*id, roles.unwrap_or_default()))
        }
        Principal::Service { id, .. } => {
            let token = executor.load::<ServiceToken>(tenant, *id).await?.map(|(token, _)| token);
            let token = token.filter(|token| !token.revoked && token.expires_at > clock::now());
            let scopes = token.map(|token| token.scopes.iter().map(|scope| scope.scope().clone()).collect());
            Ok(Principal::Service { id: *id, scopes: scopes.unwrap_or_default() })
        }
        Principal::Operator { id } => {
            let user = executor.load::<User>(ids::PLATFORM, *id).await?.map(|(user, _)| user);
            let operates = user.is_some_and(|user| {
                user.status != UserStatus::Deactivated && user.roles.contains(&Role::PlatformAdmin)
            });
            Ok(if operates { principal.clone() } else { Principal::user(*id, Vec::new()) })
        }
    }
}

async fn lock(
    executor: &Executor,
    tenant: TenantId,
    mode: LockMode,
) -> Result<(TenantLock, OwnedSemaphorePermit), AuthorityError> {
    let handle = executor.store().tenant(tenant);
    for _ in 0..LOCK_ATTEMPTS_MAX {
        // A lock holds a connection, and its holder needs another one for its write. With too many locks, all writes
        // would wait for a connection. A failed attempt returns its permit, so that one tenant does not block the
        // others.
        if let Ok(permit) = executor.authority_permits().try_acquire_owned()
            && let Some(lock) = handle.try_lock(LOCK_NAME, mode).await?
        {
            return Ok((lock, permit));
        }
        tokio::time::sleep(LOCK_RETRY_INTERVAL).await;
    }
    Err(AuthorityError::Busy)
}

impl<R> From<AuthorityError> for ExecuteError<R> {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::Forbidden => Self::Forbidden,
            AuthorityError::Busy => Self::Overloaded,
            AuthorityError::Store(error) => error.into(),
        }
    }
}
