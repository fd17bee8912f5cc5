//! Logs that end before a position that this process has seen.

use schemas::engine::{Actor, LogId, TenantId};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::replacement::{Replacement, replace_all};
use crate::StoreError;
use crate::event_ids::EventIds;
use crate::pools::Logins;
use crate::signals::Signals;

/// Positions at which this process has seen events.
#[derive(Default)]
pub(crate) struct SeenPositions {
    tenants: Vec<Uuid>,
    logs: Vec<Uuid>,
    positions: Vec<i64>,
}

impl SeenPositions {
    pub(crate) fn new(seen: impl Iterator<Item = (TenantId, LogId, u64)>) -> Self {
        let mut all = Self::default();
        for (tenant, log_id, position) in seen {
            all.tenants.push(tenant.0);
            all.logs.push(log_id.0);
            all.positions.push(position as i64);
        }
        all
    }

    /// Finds the heads below these positions. Needs a role that reads all heads, and [`parameters`](Self::parameters).
    pub(crate) const REGRESSED_HEADS: &str = "select h.tenant_id, h.log_id, w.position
         from unnest($1::uuid[], $2::uuid[], $3::int8[]) as w(tenant_id, log_id, position)
         join heads h on h.tenant_id = w.tenant_id and h.log_id = w.log_id and h.position < w.position
         order by h.tenant_id";

    pub(crate) fn parameters(&self) -> [&(dyn ToSql + Sync); 3] {
        [&self.tenants, &self.logs, &self.positions]
    }
}

/// Replaces the logs whose head is below a seen position. `behind` has the rows of
/// [`SeenPositions::REGRESSED_HEADS`].
pub(crate) async fn replace_regressed_logs(
    logins: &Logins,
    signals: &Signals,
    event_ids: &EventIds,
    behind: &[Row],
) -> Result<(), StoreError> {
    let seen = |row: &Row| {
        let lost = replacement_from(row);
        Replacement { ends_before: lost.published_to, ..lost }
    };
    let lost: Vec<Replacement> = behind.iter().map(seen).collect();
    let reason = "the log ends before an event that was read or written";
    replace_all(logins, signals, event_ids, &lost, reason, &Actor::system("appender")).await.map(drop)
}

/// The log of a head, published up to the third column.
pub(super) fn replacement_from(row: &Row) -> Replacement {
    let published_to = Some(row.get::<_, i64>(2) as u64);
    Replacement { published_to, ..Replacement::of(TenantId(row.get(0)), LogId(row.get(1))) }
}
