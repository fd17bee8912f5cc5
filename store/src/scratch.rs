//! A place to work a past state out in: a connection of its own with temporary tables, which PostgreSQL removes with the
//! connection, whatever ends it. Nobody else sees them, and no grant or policy is needed (`docs/adr/0018`).

use schemas::engine::TenantId;

use crate::pools::{DatabaseRole, FairPool};
use crate::{ReadTable, StoreError, TenantStore, TenantTransaction};

/// Statements here go over whole read models. Plans are made for the sizes that the tables have: a plan kept from when a
/// table was empty would never end on a full one, and nothing analyses temporary tables.
const SESSION_OPTIONS: &str = "-c statement_timeout=10min -c idle_in_transaction_session_timeout=10s \
                       -c plan_cache_mode=force_custom_plan -c temp_buffers=32MB";

/// A tenant's scratch tables. They are gone when this is dropped.
pub struct Scratch {
    /// Of one connection. Should it break, the next has no tables, and whoever uses them hears of it.
    pool: FairPool,
    tenant: TenantId,
}

impl TenantStore {
    /// A scratch place, empty.
    pub fn scratch(&self) -> Scratch {
        let pool = self.store().0.pools.single(DatabaseRole::Scratch, SESSION_OPTIONS);
        Scratch { pool, tenant: self.id() }
    }
}

impl Scratch {
    /// Makes an empty table of the same shape.
    pub async fn create(&self, table: &ReadTable, name: &str) -> Result<(), StoreError> {
        let ReadTable { columns, key, .. } = table;
        let transaction = self.begin().await?;
        let create = format!(
            "create temporary table {name} (tenant_id uuid not null, {columns}, primary key (tenant_id, {key}))"
        );
        transaction.connection().batch_execute(&create).await?;
        transaction.commit().await
    }

    /// A transaction that sees the scratch tables and, of all others, the tenant's rows.
    pub async fn begin(&self) -> Result<TenantTransaction, StoreError> {
        TenantTransaction::begin(&self.pool, self.tenant).await
    }

    /// The same, with all tables as they are at one instant.
    pub async fn begin_snapshot(&self) -> Result<TenantTransaction, StoreError> {
        TenantTransaction::begin_at(&self.pool, self.tenant, "repeatable read").await
    }
}
