//! Shares tenants among the workers of a workload.
//!
//! Each worker writes a heartbeat once a second. Rendezvous hashing assigns each tenant to one of the live workers.
//!
//! Assignment only affects throughput.
//! Two workers on one tenant stay correct, because every write is a compare-and-swap.
//! A tenant without a worker gets one within seconds.

use std::sync::Arc;
use std::time::Duration;

use schemas::engine::{TenantId, ids};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::pools::{Pools, get};
use crate::{Causes, StoreError};

/// Interval between heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// A worker without a heartbeat for this time is not counted any more.
const HEARTBEAT_EXPIRY: Duration = Duration::from_secs(3);
/// Timeout of one heartbeat; the next one follows soon.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(1);

/// Work that is shared by tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Publishes events on JetStream.
    Relay,
    /// Updates read models.
    Projections,
    /// Runs sagas.
    Sagas,
    /// Signs checkpoints.
    Sealer,
    /// Delivers webhooks.
    Webhooks,
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Projections => "projections",
            Self::Sagas => "sagas",
            Self::Sealer => "sealer",
            Self::Webhooks => "webhooks",
        }
    }
}

/// The tenants assigned to this process for one workload. Cheap to clone.
///
/// Without a call of [`TenantAssignment::maintain_membership`], all tenants are assigned to this process.
#[derive(Clone)]
pub struct TenantAssignment(Arc<Inner>);

struct Inner {
    workload: Workload,
    worker: Uuid,
    pools: Arc<Pools>,
    membership: watch::Sender<Membership>,
}

#[derive(Debug, Clone, PartialEq)]
enum Membership {
    /// No other workers: all tenants are assigned to this process.
    Alone,
    /// One of several workers; `until` is the expiry of the last heartbeat.
    Among { others: Vec<Uuid>, until: Instant },
    /// The worker has left.
    Left,
}

impl TenantAssignment {
    pub(crate) fn new(workload: Workload, pools: Arc<Pools>) -> Self {
        let membership = watch::Sender::new(Membership::Alone);
        Self(Arc::new(Inner { workload, worker: ids::random_id(), pools, membership }))
    }

    /// Whether the tenant is assigned to this process.
    pub fn owns(&self, tenant: TenantId) -> bool {
        match &*self.0.membership.borrow() {
            Membership::Alone => true,
            Membership::Among { others, until } => {
                let own = rank(tenant, self.0.worker);
                Instant::now() < *until && others.iter().all(|other| rank(tenant, *other) < own)
            }
            Membership::Left => false,
        }
    }

    /// Notifies when the assigned tenants may have changed.
    pub fn changes(&self) -> AssignmentChanges {
        AssignmentChanges(self.0.membership.subscribe())
    }

    /// Sends heartbeats until cancelled, then leaves, so that other workers take over at once.
    /// Without a database for a few seconds, no tenant is assigned to this process, because others may have taken over.
    pub async fn maintain_membership(&self, cancel: CancellationToken) {
        self.set_membership(Membership::Among {
            others: Vec::new(),
            until: Instant::now() + HEARTBEAT_EXPIRY,
        });
        let mut heartbeats = tokio::time::interval(HEARTBEAT_INTERVAL);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = heartbeats.tick() => {}
            }
            // Count from before the heartbeat, because other workers count from its arrival.
            let until = Instant::now() + HEARTBEAT_EXPIRY;
            match tokio::time::timeout(HEARTBEAT_TIMEOUT, self.send_heartbeat()).await {
                Ok(Ok(others)) => self.set_membership(Membership::Among { others, until }),
                Ok(Err(error)) => {
                    tracing::debug!(work = self.0.workload.name(), error = %Causes(&error), "a heartbeat was lost");
                }
                Err(_elapsed) => {
                    tracing::debug!(work = self.0.workload.name(), "a heartbeat took too long");
                }
            }
        }
        self.set_membership(Membership::Left);
        if !matches!(tokio::time::timeout(HEARTBEAT_TIMEOUT, self.leave()).await, Ok(Ok(()))) {
            tracing::debug!(work = self.0.workload.name(), "no goodbye; the others notice by themselves");
        }
    }

    fn set_membership(&self, now: Membership) {
        self.0.membership.send_if_modified(|before| {
            let changed = match (&*before, &now) {
                (
                    Membership::Among { others: before, until },
                    Membership::Among { others, until: new_until },
                ) => {
                    // A worker whose heartbeat had expired is assigned tenants again.
                    before != others || *until + HEARTBEAT_INTERVAL < *new_until
                }
                (before, now) => before != now,
            };
            *before = now;
            changed
        });
    }

    /// Stores a heartbeat and returns the other live workers. Times are those of the database.
    async fn send_heartbeat(&self) -> Result<Vec<Uuid>, StoreError> {
        let connection = get(&self.0.pools.worker).await?;
        let statement = "with beat as (
                     insert into workers (role, worker_id, seen_at) values ($1, $2, clock_timestamp())
                     on conflict (role, worker_id) do update set seen_at = excluded.seen_at
                 ), swept as (
                     delete from workers where role = $1 and seen_at < clock_timestamp() - interval '1 minute'
                                           and worker_id <> $2
                 )
                 select worker_id from workers
                 where role = $1 and worker_id <> $2 and seen_at > clock_timestamp() - $3 * interval '1 second'
                 order by worker_id";
        let expiry = HEARTBEAT_EXPIRY.as_secs_f64();
        let rows = connection.query(statement, &[&self.0.workload.name(), &self.0.worker, &expiry]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn leave(&self) -> Result<(), StoreError> {
        let connection = get(&self.0.pools.worker).await?;
        let goodbye = "delete from workers where role = $1 and worker_id = $2";
        connection.execute(goodbye, &[&self.0.workload.name(), &self.0.worker]).await?;
        Ok(())
    }
}

/// Notifies a worker when its assigned tenants may have changed.
pub struct AssignmentChanges(watch::Receiver<Membership>);

impl AssignmentChanges {
    /// Waits for the next change; never returns if there can be none.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The rank of a worker for a tenant; the highest rank gets the tenant.
/// All processes compute the same ranks. A worker that joins or leaves moves no tenant between the others.
fn rank(tenant: TenantId, worker: Uuid) -> (u64, Uuid) {
    let (tenant_high, tenant_low) = tenant.0.as_u64_pair();
    let (worker_high, worker_low) = worker.as_u64_pair();
    let score = [worker_high, worker_low, tenant_high, tenant_low]
        .into_iter()
        .fold(0, |score, part| mix(score ^ part));
    (score, worker)
}

/// The finaliser of splitmix64. It must not change, because processes of two releases must agree.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(tenant: u128, workers: &[Uuid]) -> Uuid {
        let ranked = workers.iter().map(|worker| rank(TenantId(Uuid::from_u128(tenant)), *worker));
        ranked.max().expect("a worker").1
    }

    #[test]
    fn tenants_are_spread_evenly_and_stay_where_they_are_when_another_worker_goes() {
        let workers: Vec<Uuid> = (1..=3).map(Uuid::from_u128).collect();
        let mut counts = std::collections::HashMap::new();
        for tenant in 0..3_000 {
            let before = owner(tenant, &workers);
            *counts.entry(before).or_insert(0) += 1;
            let after = owner(tenant, &workers[..2]);
            assert!(before == workers[2] || before == after);
        }
        assert!(counts.values().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }
}
