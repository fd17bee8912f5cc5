//! The heads of the logs.

use chrono::{DateTime, Utc};
use database::{RawRow, RawRows};
use schemas::engine::{LogId, TenantId};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
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

/// The head of the tenant `$1`.
pub(crate) const HEAD: &str = "select log_id, position, recorded_at from heads where tenant_id = $1";

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

/// The heads that have changed since an earlier call, or all of them, and the mark for the next call.
/// It reads the table and returns a few rows, so that tenants at rest cost little.
///
/// A change after the mark has a transaction id that is not older than it. A mark belongs to one database instance.
pub(crate) async fn changed_since(
    pools: &Pools,
    mark: Option<&str>,
) -> Result<(Vec<Head>, String), StoreError> {
    // One statement, so that mark and rows are of one snapshot.
    let statement = "select m.mark, h.tenant_id, h.log_id, h.position, h.recorded_at
                     from (select pg_snapshot_xmin(pg_current_snapshot())::xid::text mark) m
                     left join heads h on $1::text is null or age(h.xmin) <= age($1::text::xid)";
    let rows = get(&pools.worker).await?.query(statement, &[&mark]).await?;
    let mark = rows.first().map(|row| row.get(0)).unwrap_or_default();
    let head = |row: &Row| {
        Some(Head {
            tenant: TenantId(row.get::<_, Option<Uuid>>(1)?),
            log_id: LogId(row.get(2)),
            position: row.get::<_, i64>(3) as u64,
            recorded_at: row.get(4),
        })
    };
    Ok((rows.iter().filter_map(head).collect(), mark))
}

pub(crate) async fn some(pools: &Pools, tenants: &[Uuid]) -> Result<Vec<Head>, StoreError> {
    let statement = format!("select {COLUMNS} from heads where tenant_id = any($1)");
    let rows = get(&pools.worker).await?.query(&statement, &[&tenants]).await?;
    Ok(rows.iter().map(head_from).collect())
}

/// The head in the rows of [`HEAD`].
pub(crate) fn head_in(tenant: TenantId, rows: &RawRows) -> Result<Head, StoreError> {
    let row = rows.iter().next().ok_or(StoreError::TenantUnknown)?;
    Ok(Head {
        tenant,
        log_id: LogId(field(row, 0)?),
        position: field::<i64>(row, 1)? as u64,
        recorded_at: field(row, 2)?,
    })
}

/// The value of a field.
pub(crate) fn field<'a, T: FromSql<'a>>(row: RawRow<'a>, index: usize) -> Result<T, StoreError> {
    row.get(index).map_err(|error| StoreError::corrupt("a row", error))
}
