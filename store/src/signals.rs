//! Notifications of moved heads and checkpoints, within a process and between processes.
//!
//! They may be lost or stale, so receivers read the database, and also poll it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use schemas::engine::{TenantId, ids};
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::pools::{DatabaseRole, Pools, get};
use crate::{Causes, StoreError};

/// Maximum unread notifications per receiver; beyond, the receiver lags and must read the heads itself.
const HEAD_NOTIFICATIONS_MAX: usize = 4_096;
/// Interval between comparisons of the heads, in case a notification was lost.
const HEAD_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long notifications to other processes are collected.
const NOTIFY_DELAY: Duration = Duration::from_millis(10);
/// Maximum tenants per NOTIFY: its payload must be below 8,000 bytes, and each id has 32 digits.
const NOTIFY_TENANTS_MAX: usize = 200;
const NOTIFY_CHANNEL: &str = "annals_heads";

/// A moved checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointMove {
    /// The consumer, such as `customers.v1`.
    pub consumer: Arc<str>,
    /// The tenant.
    pub tenant: TenantId,
    /// The new position.
    pub position: u64,
}

pub(crate) struct Signals {
    /// Identifies the notifications of this process.
    instance: Uuid,
    heads: broadcast::Sender<TenantId>,
    checkpoints: broadcast::Sender<CheckpointMove>,
    known: Mutex<HashMap<TenantId, watch::Sender<u64>>>,
    to_announce: Mutex<HashSet<TenantId>>,
    announce: Notify,
}

impl Signals {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            instance: ids::random_id(),
            heads: broadcast::Sender::new(HEAD_NOTIFICATIONS_MAX),
            checkpoints: broadcast::Sender::new(HEAD_NOTIFICATIONS_MAX),
            known: Mutex::default(),
            to_announce: Mutex::default(),
            announce: Notify::new(),
        })
    }

    pub(crate) fn head_moves(&self) -> broadcast::Receiver<TenantId> {
        self.heads.subscribe()
    }

    pub(crate) fn checkpoint_moves(&self) -> broadcast::Receiver<CheckpointMove> {
        self.checkpoints.subscribe()
    }

    pub(crate) fn checkpoint_moved(&self, moved: CheckpointMove) {
        // There may be no receiver.
        drop(self.checkpoints.send(moved));
    }

    /// Notifies this process and others of a head that an append of this process moved.
    pub(crate) fn announce_head(&self, tenant: TenantId, position: u64) {
        self.head_moved(tenant, position);
        lock(&self.to_announce).insert(tenant);
        self.announce.notify_one();
    }

    fn head_moved(&self, tenant: TenantId, position: u64) {
        let changed = {
            let mut known = lock(&self.known);
            let entry = known.entry(tenant).or_insert_with(|| watch::Sender::new(0));
            entry.send_if_modified(|at| {
                // A replaced log may have a lower head, so every difference is a move.
                let changed = *at != position;
                *at = position;
                changed
            })
        };
        if changed {
            drop(self.heads.send(tenant));
        }
    }

    /// Notifies when the head of the tenant moves.
    pub(crate) fn watch_head(&self, tenant: TenantId) -> watch::Receiver<u64> {
        lock(&self.known).entry(tenant).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// Sends collected notifications of moved heads to other processes.
    /// NOTIFY is not part of the append transaction: there it would lock the whole server at commit.
    pub(crate) async fn announce(self: Arc<Self>, pools: Arc<Pools>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.announce.notified() => {}
            }
            tokio::time::sleep(NOTIFY_DELAY).await;
            let tenants: Vec<TenantId> = lock(&self.to_announce).drain().collect();
            for some in tenants.chunks(NOTIFY_TENANTS_MAX) {
                let payload: Vec<String> = some.iter().map(|tenant| tenant.0.simple().to_string()).collect();
                // After a lost notification, other processes see the head at their next poll.
                if let Err(error) = notify(&pools, &format!("{} {}", self.instance, payload.join(","))).await
                {
                    tracing::debug!(error = %Causes(&error), "a hint about moved heads was lost");
                }
            }
        }
    }

    /// Receives the notifications of other processes, and compares the heads periodically.
    pub(crate) async fn listen(self: Arc<Self>, pools: Arc<Pools>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => return,
                ended = self.listen_once(&pools) => {
                    if let Err(error) = ended {
                        tracing::debug!(error = %Causes(&error), "listening for moved heads was interrupted");
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(HEAD_POLL_INTERVAL) => {}
            }
        }
    }

    async fn listen_once(&self, pools: &Pools) -> Result<(), StoreError> {
        let mut hints = pools.logins.of(DatabaseRole::Worker).listen(NOTIFY_CHANNEL).await?;
        let mut poll = tokio::time::interval(HEAD_POLL_INTERVAL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                hint = hints.next() => match hint {
                    Some(Ok(hint)) => self.handle_notification(pools, hint.payload()).await?,
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(StoreError::Unavailable("the listening connection ended".to_owned())),
                },
                _ = poll.tick() => self.compare(pools).await?,
            }
        }
    }

    async fn handle_notification(&self, pools: &Pools, payload: &str) -> Result<(), StoreError> {
        let Some((instance, tenants)) = payload.split_once(' ') else { return Ok(()) };
        if instance.parse() == Ok(self.instance) {
            return Ok(());
        }
        let tenants: Vec<Uuid> = tenants.split(',').filter_map(|id| id.parse().ok()).collect();
        for head in crate::heads::some(pools, &tenants).await? {
            self.head_moved(head.tenant, head.position);
        }
        Ok(())
    }

    async fn compare(&self, pools: &Pools) -> Result<(), StoreError> {
        for head in crate::heads::all(pools).await? {
            self.head_moved(head.tenant, head.position);
        }
        Ok(())
    }
}

async fn notify(pools: &Pools, payload: &str) -> Result<(), StoreError> {
    get(&pools.worker).await?.execute("select pg_notify($1, $2)", &[&NOTIFY_CHANNEL, &payload]).await?;
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Code that holds these locks does not panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
