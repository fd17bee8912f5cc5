//! Notifications of moved heads and checkpoints, within a process and between processes.
//!
//! They may be lost or stale, so receivers read the database, and also poll it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt;
use schemas::engine::{LogId, TenantId, ids};
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::pools::{DatabaseRole, Pools, get};
use crate::{Causes, Head, StoreError};

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

/// The last known head of a tenant.
struct KnownHead {
    log_id: Option<LogId>,
    position: watch::Sender<u64>,
}

impl Default for KnownHead {
    fn default() -> Self {
        Self { log_id: None, position: watch::Sender::new(0) }
    }
}

/// Collects the tenants whose heads move. One task of a process reads the heads for all of them.
pub(crate) struct MovedHeads {
    signals: Arc<Signals>,
    moved: Arc<Mutex<HashSet<TenantId>>>,
    loads: u64,
}

impl MovedHeads {
    /// The known heads of the tenants whose heads have moved since the last call.
    /// `None` if more heads may have moved: then the receiver must read them itself.
    pub(crate) fn take(&mut self) -> Option<Vec<(TenantId, LogId, u64)>> {
        let loads = self.signals.loads.load(Ordering::Acquire);
        let moved = std::mem::take(&mut *lock(&self.moved));
        if std::mem::replace(&mut self.loads, loads) != loads {
            return None;
        }
        let known = lock(&self.signals.known);
        let head = |tenant| {
            let head = known.get(&tenant)?;
            Some((tenant, head.log_id?, *head.position.borrow()))
        };
        Some(moved.into_iter().filter_map(head).collect())
    }
}

pub(crate) struct Signals {
    /// Identifies the notifications of this process.
    instance: Uuid,
    heads: broadcast::Sender<TenantId>,
    checkpoints: broadcast::Sender<CheckpointMove>,
    known: Mutex<HashMap<TenantId, KnownHead>>,
    /// The tenants whose head has moved, one set for each [`MovedHeads`].
    moved: Mutex<Vec<Weak<Mutex<HashSet<TenantId>>>>>,
    /// How often all heads were read, because notifications may have been lost.
    loads: AtomicU64,
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
            moved: Mutex::default(),
            loads: AtomicU64::new(0),
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

    /// Collects the moves of heads from now on.
    pub(crate) fn moved_heads(self: &Arc<Self>) -> MovedHeads {
        let moved = Arc::default();
        lock(&self.moved).push(Arc::downgrade(&moved));
        MovedHeads { signals: Arc::clone(self), moved, loads: self.loads.load(Ordering::Acquire) }
    }

    /// Notifies this process and others of a head that an append of this process moved.
    pub(crate) fn announce_head(&self, tenant: TenantId, log_id: LogId, position: u64) {
        if self.head_moved(tenant, log_id, position) {
            self.collect(tenant);
        }
        lock(&self.to_announce).insert(tenant);
        self.announce.notify_one();
    }

    /// Stores a head and notifies of it. Returns whether it has moved.
    fn head_moved(&self, tenant: TenantId, log_id: LogId, position: u64) -> bool {
        let changed = {
            let mut known = lock(&self.known);
            let head = known.entry(tenant).or_default();
            let is_other_log = head.log_id.replace(log_id) != Some(log_id);
            let is_moved = head.position.send_if_modified(|at| {
                // A replaced log may have a lower head, so every difference is a move.
                let changed = *at != position;
                *at = position;
                changed
            });
            is_moved || is_other_log
        };
        if changed {
            drop(self.heads.send(tenant));
        }
        changed
    }

    fn collect(&self, tenant: TenantId) {
        lock(&self.moved).retain(|moved| {
            let Some(moved) = moved.upgrade() else { return false };
            lock(&moved).insert(tenant);
            true
        });
    }

    fn collect_all(&self, heads: &[Head]) {
        for head in heads {
            if self.head_moved(head.tenant, head.log_id, head.position) {
                self.collect(head.tenant);
            }
        }
    }

    /// Notifies when the head of the tenant moves.
    pub(crate) fn watch_head(&self, tenant: TenantId) -> watch::Receiver<u64> {
        lock(&self.known).entry(tenant).or_default().position.subscribe()
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
        // After an interruption all heads are read once.
        let mut mark = self.load(pools).await?;
        let mut poll = tokio::time::interval_at(Instant::now() + HEAD_POLL_INTERVAL, HEAD_POLL_INTERVAL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                hint = hints.next() => match hint {
                    Some(Ok(hint)) => self.handle_notification(pools, hint.payload()).await?,
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(StoreError::Unavailable("the listening connection ended".to_owned())),
                },
                _ = poll.tick() => {
                    let (heads, next) = crate::heads::changed_since(pools, Some(&mark)).await?;
                    self.collect_all(&heads);
                    mark = next;
                }
            }
        }
    }

    async fn handle_notification(&self, pools: &Pools, payload: &str) -> Result<(), StoreError> {
        let Some((instance, tenants)) = payload.split_once(' ') else { return Ok(()) };
        if instance.parse() == Ok(self.instance) {
            return Ok(());
        }
        let tenants: Vec<Uuid> = tenants.split(',').filter_map(|id| id.parse().ok()).collect();
        self.collect_all(&crate::heads::some(pools, &tenants).await?);
        Ok(())
    }

    /// Reads all heads. Receivers of [`MovedHeads`] compare all of them too.
    async fn load(&self, pools: &Pools) -> Result<String, StoreError> {
        let (heads, mark) = crate::heads::changed_since(pools, None).await?;
        for head in heads {
            self.head_moved(head.tenant, head.log_id, head.position);
        }
        self.loads.fetch_add(1, Ordering::Release);
        Ok(mark)
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
