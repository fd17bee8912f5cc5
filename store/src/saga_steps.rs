//! Finds tenants with due saga steps. The sagas read and write the rows themselves, per tenant.

use chrono::{DateTime, Utc};
use schemas::engine::TenantId;

use crate::pools::get;
use crate::{Store, StoreError};

impl Store {
    /// Tenants with due steps of a saga, longest waiting first, each with the time since it waits.
    ///
    /// One row per tenant, so that a tenant with many steps does not hide the others.
    /// A page of at most `limit` tenants after `after`.
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
