//! Locks by tenant and name, valid over all processes; exclusive or shared.

use crate::{StoreError, TenantStore, TenantTransaction};

/// A held lock. It is released when it is dropped, or when its connection ends.
pub struct TenantLock(TenantTransaction);

/// The mode of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// One holder, and no shared holders.
    Exclusive,
    /// Any number of shared holders, and no exclusive holder.
    Shared,
}

impl TenantStore {
    /// Takes the lock `what` of the tenant, or returns `None` when another holder prevents it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn try_lock(&self, what: &str, mode: LockMode) -> Result<Option<TenantLock>, StoreError> {
        // Locks have their own pool, because their holders need connections of the other pools too.
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
    /// Releases the lock.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer. The lock then ends with its connection.
    pub async fn end(self) -> Result<(), StoreError> {
        self.0.commit().await
    }
}
