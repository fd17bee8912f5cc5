//! Who has moved: signals within the process, and hints between processes. A signal is never the truth: whoever wakes
//! reads the database, and everybody polls as well.

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

/// Most hints that a slow receiver may be behind before it is told to look for itself.
const HEAD_NOTIFICATIONS_MAX: usize = 4_096;
/// How often the heads are compared with what is known, in case a hint was lost.
const HEAD_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long hints to other processes are gathered.
const NOTIFY_DELAY: Duration = Duration::from_millis(10);
/// Tenants in one NOTIFY, whose payload is below 8,000 bytes: an instance id and ids of 32 digits.
const NOTIFY_TENANTS_MAX: usize = 200;
const NOTIFY_CHANNEL: &str = "annals_heads";

/// A checkpoint that moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointMove {
    /// The consumer, such as `customers.v1`.
    pub consumer: Arc<str>,
    /// Whose log.
    pub tenant: TenantId,
    /// Where it is now.
    pub position: u64,
}

pub(crate) struct Signals {
    /// Tells this process's hints from those of others.
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
        // Nobody listening is fine.
        drop(self.checkpoints.send(moved));
    }

    /// An append of this process moved a head.
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
                // A replaced log may start again below: any difference is a move.
                let changed = *at != position;
                *at = position;
                changed
            })
        };
        if changed {
            drop(self.heads.send(tenant));
        }
    }

    /// Wakes when the tenant's head moves.
    pub(crate) fn watch_head(&self, tenant: TenantId) -> watch::Receiver<u64> {
        lock(&self.known).entry(tenant).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// Tells other processes which heads moved here, gathered, outside the append transactions: a NOTIFY inside would
    /// take a lock on the whole instance at commit.
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
                // A lost hint costs the others one poll.
                if let Err(error) = notify(&pools, &format!("{} {}", self.instance, payload.join(","))).await
                {
                    tracing::debug!(error = %Causes(&error), "a hint about moved heads was lost");
                }
            }
        }
    }

    /// Hears of other processes' appends, and compares the heads now and then.
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
    // Nothing panics while holding one of these locks; the data would be whole all the same.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
