//! Reads of all tenants' logs by the relay, which needs no tenant handle.

use schemas::engine::{LogId, RecordedEvent, TenantId};

use crate::pools::get;
use crate::{Store, StoreError};

impl Store {
    /// Events after position `after`, at most `limit`, in position order. Empty when the tenant has another log.
    /// Only for the relay: other readers use a tenant handle.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    /// [`StoreError::Corrupt`] when a stored event is invalid.
    pub async fn relay_events(
        &self,
        tenant: TenantId,
        log_id: LogId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let connection = get(&self.0.pools.relay).await?;
        let statement = format!(
            "select {} from events where tenant_id = $1 and position > $2 and position <= $3
                   and exists (select from heads h where h.tenant_id = $1 and h.log_id = $4)
                 order by position",
            crate::read::COLUMNS
        );
        let (from, to) = (after as i64, after.saturating_add(limit as u64) as i64);
        let rows = connection.query(&statement, &[&tenant.0, &from, &to, &log_id.0]).await?;
        rows.iter().map(|row| crate::read::event_from(row, 0, log_id)).collect()
    }

    /// The events at these positions, in position order. Empty when the tenant has another log. Only for the relay.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    /// [`StoreError::Corrupt`] when a stored event is invalid.
    pub async fn relay_events_at(
        &self,
        tenant: TenantId,
        log_id: LogId,
        positions: &[u64],
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let connection = get(&self.0.pools.relay).await?;
        let statement = format!(
            "select {} from events where tenant_id = $1 and position = any($2)
                   and exists (select from heads h where h.tenant_id = $1 and h.log_id = $3)
                 order by position",
            crate::read::COLUMNS
        );
        let positions: Vec<i64> = positions.iter().map(|position| *position as i64).collect();
        let rows = connection.query(&statement, &[&tenant.0, &positions, &log_id.0]).await?;
        rows.iter().map(|row| crate::read::event_from(row, 0, log_id)).collect()
    }
}
