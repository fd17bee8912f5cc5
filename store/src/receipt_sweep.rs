//! Removes expired receipts and answers, of one tenant or of all.

use std::sync::Weak;
use std::time::Duration;

use schemas::engine::TenantId;
use tokio_util::sync::CancellationToken;

use crate::pools::{Pools, get};
use crate::transaction::TenantTransaction;
use crate::{Causes, StoreError};

/// Maximum expiring receipts per tenant; beyond, the oldest are removed first.
pub const EXPIRING_RECEIPTS_MAX: u64 = 100_000;
/// Interval between two removals of expired receipts.
const SWEEP_INTERVAL: Duration = Duration::from_mins(10);
/// Maximum rows per delete statement.
const REMOVAL_BATCH_MAX: i64 = 10_000;

/// Removes expired receipts and answers, and the oldest expiring receipts beyond `receipts_max`.
/// Returns the number of removed rows; call it again until it returns 0.
pub(crate) async fn expire(pools: &Pools, tenant: TenantId, receipts_max: u64) -> Result<u64, StoreError> {
    let transaction = TenantTransaction::begin(&pools.projector, tenant).await?;
    let receipts = transaction
        .execute(
            "delete from receipts where tenant_id = $1 and command_id in (
                 select r.command_id from receipts r where r.tenant_id = $1 and r.expires_at is not null
                   and (r.expires_at < now()
                        or r.expires_at <= (select n.expires_at from receipts n
                                            where n.tenant_id = $1 and n.expires_at is not null
                                            order by n.expires_at desc offset $2 limit 1))
                 order by r.expires_at limit $3)",
            &[&tenant.0, &(receipts_max as i64), &REMOVAL_BATCH_MAX],
        )
        .await?;
    let answers = transaction
        .execute(
            "delete from request_answers where tenant_id = $1 and receipt_key in (
                 select a.receipt_key from request_answers a
                 where a.tenant_id = $1 and a.expires_at < now() order by a.expires_at limit $2)",
            &[&tenant.0, &REMOVAL_BATCH_MAX],
        )
        .await?;
    transaction.commit().await?;
    Ok(receipts + answers)
}

/// Removes expired receipts periodically, until the store is stopped or dropped.
/// Every process does this; concurrent removals are harmless.
pub(crate) async fn sweep(pools: Weak<Pools>, stop: CancellationToken) {
    // A random first pause, so that processes that start together do not all remove at once.
    let mut pause = SWEEP_INTERVAL.mul_f64(rand::random());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = SWEEP_INTERVAL;
        let Some(pools) = pools.upgrade() else { return };
        tokio::select! {
            () = stop.cancelled() => return,
            swept = expire_all(&pools) => if let Err(error) = swept {
                tracing::warn!(error = %Causes(&error), "receipts that have ended could not be removed");
            }
        }
    }
}

/// Removes expired receipts and answers of all tenants.
pub(crate) async fn expire_all(pools: &Pools) -> Result<(), StoreError> {
    for tenant in tenants_with_expiring_receipts(pools).await? {
        while expire(pools, tenant, EXPIRING_RECEIPTS_MAX).await? > 0 {}
    }
    Ok(())
}

/// The tenants with expiring receipts; a recursive query that reads one index entry per tenant.
async fn tenants_with_expiring_receipts(pools: &Pools) -> Result<Vec<TenantId>, StoreError> {
    let rows = get(&pools.worker)
        .await?
        .query(
            "with recursive tenant(tenant_id) as (
                 (select tenant_id from receipts where expires_at is not null order by tenant_id limit 1)
                 union all
                 select (select r.tenant_id from receipts r
                         where r.expires_at is not null and r.tenant_id > t.tenant_id
                         order by r.tenant_id limit 1)
                 from tenant t where t.tenant_id is not null
             ) select tenant_id from tenant where tenant_id is not null",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| TenantId(row.get(0))).collect())
}
