//! Locks by tenant and name, which hold over all processes: exclusive, or shared by several holders.

use crate::{StoreError, TenantStore, TenantTransaction};

/// A held lock. It ends with the value, or with the connection behind it.
pub struct TenantLock(TenantTransaction);

/// How many may hold a lock at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// One holder, and no shared ones beside it.
    Exclusive,
    /// Any number of shared holders, and no exclusive one.
    Shared,
}

impl TenantStore {
    /// Takes the lock `what` of the tenant; `None` where another holder is in the way now.
    ///
    /// # Errors
    /// [`StoreError`] where the database does not answer.
    pub async fn try_lock(&self, what: &str, mode: LockMode) -> Result<Option<TenantLock>, StoreError> {
        // A connection for locks alone: the work of their holders needs a tenant's and a projector's besides.
        let transaction = TenantTransaction::begin(&self.store().0.pools.locks, self.id()).await?;
        let name = format!("{what}/{}", self.id());
        let statement = match mode {
            LockMode::Exclusive => "select pg_try_advisory_xact_lock(hashtextextended($1, 0))",
            LockMode::Shared => "select pg_try_advisory_xact_lock_shared(hashtextextended($1, 0))",
        };
        let row = transaction.query_opt(statement, &[&name]).await?;
        if row.is_some_and(|row| row.get(0)) {
            return Ok(Some(TenantLock(transaction)));
        }
        transaction.commit().await?;
        Ok(None)
    }
}

impl TenantLock {
    /// Gives the lock back.
    pub async fn end(self) -> Result<(), StoreError> {
        self.0.commit().await
    }
}
