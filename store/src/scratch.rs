//! Scratch tables for a historical state: temporary tables on a connection of their own (`docs/adr/0018`).
//!
//! PostgreSQL removes them with the connection. Other sessions cannot see them, so no grant or policy is needed.

use schemas::engine::TenantId;

use crate::pools::{DatabaseRole, FairPool};
use crate::{ReadTable, StoreError, TenantStore, TenantTransaction};

/// Statements cover whole read models, so the timeout is long.
/// Plans are custom: temporary tables are not analysed, and a plan made for an empty table is useless for a full one.
const SESSION_OPTIONS: &str = "-c statement_timeout=10min -c idle_in_transaction_session_timeout=10s \
                       -c plan_cache_mode=force_custom_plan -c temp_buffers=32MB";

/// The scratch tables of a tenant. They are removed when this is dropped.
pub struct Scratch {
    /// Has one connection. If it breaks, the next has no tables, and statements fail.
    pool: FairPool,
    tenant: TenantId,
}

impl TenantStore {
    /// Creates an empty scratch space.
    pub fn scratch(&self) -> Scratch {
        let pool = self.store().0.pools.single(DatabaseRole::Scratch, SESSION_OPTIONS);
        Scratch { pool, tenant: self.id() }
    }
}

impl Scratch {
    /// Creates an empty table with the columns of `table`.
    ///
    /// # Errors
    /// [`StoreError::Database`] when there is a scratch table with this name.
    /// Also the errors of [`begin`](Self::begin).
    pub async fn create(&self, table: &ReadTable, name: &str) -> Result<(), StoreError> {
        let ReadTable { columns, key, .. } = table;
        let transaction = self.begin().await?;
        let create = format!(
            "create temporary table {name} (tenant_id uuid not null, {columns}, primary key (tenant_id, {key}))"
        );
        transaction.connection().batch_execute(&create).await?;
        transaction.commit().await
    }

    /// Begins a transaction that sees the scratch tables and the rows of the tenant.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] when another transaction on the scratch tables does not end within
    /// [`POOL_WAIT_TIMEOUT`](database::POOL_WAIT_TIMEOUT). [`StoreError`] when the database does not answer.
    pub async fn begin(&self) -> Result<TenantTransaction, StoreError> {
        TenantTransaction::begin(&self.pool, self.tenant).await
    }

    /// The same with one snapshot for all statements.
    ///
    /// # Errors
    /// The errors of [`begin`](Self::begin).
    pub async fn begin_snapshot(&self) -> Result<TenantTransaction, StoreError> {
        TenantTransaction::begin_at(&self.pool, self.tenant, "repeatable read").await
    }
}
