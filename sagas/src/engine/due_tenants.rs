//! Finds tenants with due steps. `rows` reads and writes the steps of one tenant.

use chrono::{DateTime, Utc};
use schemas::engine::TenantId;
use store::{CrossTenantRole, Store, StoreError};

/// Tenants with due steps of a saga, longest waiting first, each with the time since it waits.
///
/// One row per tenant, so that a tenant with many steps does not hide the others.
/// A page of at most `limit` tenants after `after`.
#[expect(clippy::disallowed_methods, reason = "sagas serve all tenants")]
pub(super) async fn with_due_steps(
    store: &Store,
    saga: &str,
    now: DateTime<Utc>,
    after: Option<(DateTime<Utc>, TenantId)>,
    limit: u32,
) -> Result<Vec<(DateTime<Utc>, TenantId)>, StoreError> {
    let (since, tenant) = after.map(|(since, tenant)| (since, tenant.0)).unzip();
    let rows = store
        .cross_tenant_connection(CrossTenantRole::Worker)
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
