//! The work list of the sagas, looked at across tenants. The rows themselves are written and read by the sagas, one
//! tenant at a time.

use chrono::{DateTime, Utc};
use schemas::engine::TenantId;

use crate::pools::get;
use crate::{Store, StoreError};

impl Store {
    /// Tenants that have steps of a saga whose time has come, longest waiting first. By tenant, so that one with many
    /// steps does not hide the others.
    pub async fn tenants_with_due_saga_steps(
        &self,
        saga: &str,
        now: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<TenantId>, StoreError> {
        let rows = get(&self.0.pools.worker)
            .await?
            .query(
                "select tenant_id from saga_steps
                 where saga = $1 and status = 'pending' and next_attempt_at <= $2
                 group by tenant_id order by min(next_attempt_at) limit $3",
                &[&saga, &now, &i64::from(limit)],
            )
            .await?;
        Ok(rows.iter().map(|row| TenantId(row.get(0))).collect())
    }
}
