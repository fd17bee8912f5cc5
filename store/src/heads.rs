//! The heads of the logs, for code that works across tenants.

use chrono::{DateTime, Utc};
use schemas::engine::{LogId, TenantId};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::StoreError;
use crate::pools::{Pools, get};

/// The head of one tenant's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The tenant.
    pub tenant: TenantId,
    /// The current log of the tenant.
    pub log_id: LogId,
    /// The position of the last event; 0 without events.
    pub position: u64,
    /// The time of that event.
    pub recorded_at: DateTime<Utc>,
}

pub(crate) const COLUMNS: &str = "tenant_id, log_id, position, recorded_at";

pub(crate) fn head_from(row: &Row) -> Head {
    Head {
        tenant: TenantId(row.get(0)),
        log_id: LogId(row.get(1)),
        position: row.get::<_, i64>(2) as u64,
        recorded_at: row.get(3),
    }
}

pub(crate) async fn all(pools: &Pools) -> Result<Vec<Head>, StoreError> {
    let rows = get(&pools.worker).await?.query(&format!("select {COLUMNS} from heads"), &[]).await?;
    Ok(rows.iter().map(head_from).collect())
}

pub(crate) async fn some(pools: &Pools, tenants: &[Uuid]) -> Result<Vec<Head>, StoreError> {
    let statement = format!("select {COLUMNS} from heads where tenant_id = any($1)");
    let rows = get(&pools.worker).await?.query(&statement, &[&tenants]).await?;
    Ok(rows.iter().map(head_from).collect())
}
