//! Checkpoints that only advance: the events had no effect on their consumer.
//!
//! They are collected and written for all consumers of a tenant in one transaction, soon after the first one,
//! or at once if a reader waits for a checkpoint of the tenant.
//! Until then the stored checkpoint is lower than what the consumer has processed.
//! A crash loses only this: the events are processed again, without effect.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use schemas::engine::{LogId, TenantId};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::pools::Pools;
use crate::signals::{CheckpointMove, Signals};
use crate::transaction::TenantTransaction;
use crate::{Causes, StoreError};

/// Maximum age of a collected advance.
const ADVANCE_DELAY: Duration = Duration::from_millis(100);
/// Maximum tenants whose advances are written at once.
const CONCURRENT_TENANTS_MAX: usize = 3;

/// A checkpoint that may advance.
pub(crate) struct Advance {
    pub(crate) log_id: LogId,
    /// The stored checkpoint is not below this position.
    pub(crate) from: u64,
    /// No event after `from` and up to here has an effect.
    pub(crate) to: u64,
    /// Receives the tenant if the stored checkpoint is another one.
    pub(crate) refused: UnboundedSender<TenantId>,
}

impl Advance {
    fn refuse(&self, tenant: TenantId) {
        // The feed may have ended.
        let _ = self.refused.send(tenant);
    }
}

/// The collected advances of a process.
#[derive(Default)]
pub(crate) struct Advances {
    collected: Mutex<HashMap<TenantId, BTreeMap<Arc<str>, Advance>>>,
    /// How many readers wait for a checkpoint, by tenant.
    awaited: Mutex<HashMap<TenantId, usize>>,
    changed: Notify,
    urgent: Notify,
}

/// A reader that waits for a checkpoint of the tenant. Advances of the tenant are written at once while it exists.
pub(crate) struct Waiting<'a> {
    advances: &'a Advances,
    tenant: TenantId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut awaited = lock(&self.advances.awaited);
        if let Some(count) = awaited.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                awaited.remove(&self.tenant);
            }
        }
    }
}

impl Advances {
    /// Collects an advance, which replaces an earlier one of the consumer.
    pub(crate) fn put(&self, tenant: TenantId, consumer: &Arc<str>, advance: Advance) {
        lock(&self.collected).entry(tenant).or_default().insert(Arc::clone(consumer), advance);
        self.changed.notify_one();
        if lock(&self.awaited).contains_key(&tenant) {
            self.urgent.notify_one();
        }
    }

    /// Declares that a reader waits for a checkpoint of the tenant.
    pub(crate) fn wait(&self, tenant: TenantId) -> Waiting<'_> {
        *lock(&self.awaited).entry(tenant).or_default() += 1;
        // What was collected before, and what is collected from now on, is written at once.
        if lock(&self.collected).contains_key(&tenant) {
            self.urgent.notify_one();
        }
        Waiting { advances: self, tenant }
    }

    /// Writes the collected advances until stopped.
    pub(crate) async fn write_forever(
        self: Arc<Self>,
        pools: Arc<Pools>,
        signals: Arc<Signals>,
        stop: CancellationToken,
    ) {
        loop {
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = stop.cancelled() => return,
            }
            // After a stop the rest is written.
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.urgent.notified() => {}
                () = tokio::time::sleep(ADVANCE_DELAY) => {}
            }
            let collected = std::mem::take(&mut *lock(&self.collected));
            let write = |(tenant, advances)| {
                let (pools, signals) = (&pools, &signals);
                async move {
                    if let Err(error) = write(pools, signals, tenant, &advances).await {
                        tracing::debug!(%tenant, error = %Causes(&error), "checkpoints could not be advanced");
                        // The consumers look their checkpoints up and start from there.
                        for advance in advances.values() {
                            advance.refuse(tenant);
                        }
                    }
                }
            };
            futures::stream::iter(collected)
                .map(write)
                .buffer_unordered(CONCURRENT_TENANTS_MAX)
                .collect::<()>()
                .await;
        }
    }
}

/// Writes the advances of one tenant, and notifies of them.
async fn write(
    pools: &Pools,
    signals: &Signals,
    tenant: TenantId,
    advances: &BTreeMap<Arc<str>, Advance>,
) -> Result<(), StoreError> {
    let transaction = TenantTransaction::begin(&pools.projector, tenant).await?;
    let moved = move_all(&transaction, advances).await?;
    transaction.commit().await?;
    for (consumer, advance) in advances {
        if moved.iter().any(|moved| **moved == **consumer) {
            let position = advance.to;
            signals.checkpoint_moved(CheckpointMove { consumer: Arc::clone(consumer), tenant, position });
        } else {
            advance.refuse(tenant);
        }
    }
    Ok(())
}

/// Moves checkpoints forward, and returns the consumers whose checkpoint is at or after the wanted position.
async fn move_all(
    transaction: &TenantTransaction,
    advances: &BTreeMap<Arc<str>, Advance>,
) -> Result<Vec<String>, StoreError> {
    let consumers: Vec<&str> = advances.keys().map(|consumer| &**consumer).collect();
    let logs: Vec<Uuid> = advances.values().map(|advance| advance.log_id.0).collect();
    let from: Vec<i64> = advances.values().map(|advance| advance.from as i64).collect();
    let to: Vec<i64> = advances.values().map(|advance| advance.to as i64).collect();
    // Rows are locked in the order of their names, so that two processes do not block each other.
    // A checkpoint that has moved on meanwhile stays where it is.
    let rows = transaction
        .query(
            "with wanted as (
                 select a.* from unnest($2::text[], $3::uuid[], $4::int8[], $5::int8[])
                                 a(consumer, log_id, low, high)
                 join heads h on h.tenant_id = $1 and h.log_id = a.log_id and h.position >= a.high
             ), locked as (
                 select c.consumer, w.high from checkpoints c
                 join wanted w on w.consumer = c.consumer and w.log_id = c.log_id and c.position >= w.low
                 where c.tenant_id = $1 order by c.consumer for update of c
             )
             update checkpoints c set position = greatest(c.position, l.high), updated_at = now()
             from locked l where c.tenant_id = $1 and c.consumer = l.consumer
             returning c.consumer",
            &[&transaction.tenant().0, &consumers, &logs, &from, &to],
        )
        .await?;
    let mut moved: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let is_first =
        |consumer: &str, advance: &Advance| advance.from == 0 && !moved.iter().any(|moved| moved == consumer);
    if advances.iter().any(|(consumer, advance)| is_first(consumer, advance)) {
        let rows = transaction
            .query(
                "insert into checkpoints (tenant_id, consumer, log_id, position)
                 select h.tenant_id, a.consumer, h.log_id, a.high
                 from unnest($2::text[], $3::uuid[], $4::int8[], $5::int8[]) a(consumer, log_id, low, high)
                 join heads h on h.tenant_id = $1 and h.log_id = a.log_id and h.position >= a.high
                 where a.low = 0 order by a.consumer
                 on conflict (tenant_id, consumer) do nothing
                 returning consumer",
                &[&transaction.tenant().0, &consumers, &logs, &from, &to],
            )
            .await?;
        moved.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    Ok(moved)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Code that holds these locks does not panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
