//! The work list of the sagas, looked at across tenants. The rows themselves are written and read by the sagas, one
//! tenant at a time.

use chrono::{DateTime, Utc};
use schemas::engine::TenantId;

use crate::pools::get;
use crate::{Store, StoreError};

impl Store {
    /// Tenants that have steps of a saga whose time has come, longest waiting first. By tenant, so that one with many
    /// steps does not hide the others. A page of at most `limit` behind `after`; with each, since when it waits.
    pub async fn tenants_with_due_saga_steps(
        &self,
        saga: &str,
        now: DateTime<Utc>,
        after: Option<(DateTime<Utc>, TenantId)>,
        limit: u32,
    ) -> Result<Vec<(DateTime<Utc>, TenantId)>, StoreError> {
        let (since, tenant) = after.map(|(since, tenant)| (since, tenant.0)).unzip();
        let rows = get(&self.0.pools.worker)
            .await?
            .query(
                "select min(next_attempt_at), tenant_id from saga_steps
                 where saga = $1 and status = 'pending' and next_attempt_at <= $2
                 group by tenant_id
                 having $3::timestamptz is null or (min(next_attempt_at), tenant_id) > ($3, $4::uuid)
                 order by min(next_attempt_at), tenant_id limit $5",
                &[&saga, &now, &since, &tenant, &i64::from(limit)],
            )
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), TenantId(row.get(1)))).collect())
    }
}
