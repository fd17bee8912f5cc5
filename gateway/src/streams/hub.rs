//! The readers behind all streams of this process: one for each tenant that has followers, however many they are. One look
//! at the directory every two seconds tells all of them who was suspended and whose log was replaced.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use fairness::{Limits, Permits};
use schemas::engine::{TenantId, TenantSlug};
use store::{Causes, LogFilter, Standing, Store, StoreError, TenantRecord, TenantStore};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::closing::Closing;
use super::follower::Follower;
use super::frame::{Frame, FrameError};
use super::ring::{Budget, Ring};

/// Events of one read.
const PAGE: usize = 200;
/// How often the directory is looked at.
pub(super) const LOOK: Duration = Duration::from_secs(2);
/// The wait after a failed read: first and longest.
const WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Reads at a time by followers that have fallen out of their ring, so that they leave connections to everybody else.
const CATCHING_UP: usize = 4;
/// Followers of one tenant that wait for such a read. Above the number of streams of a process.
const CATCHING_UP_WAITING_MAX: usize = 100_000;

/// The readers of this process. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Inner>);

struct Inner {
    store: Store,
    rings: Mutex<HashMap<TenantId, Weak<Ring>>>,
    budget: Budget,
    catching_up: Permits<TenantId>,
    stopping: CancellationToken,
}

impl Hub {
    /// No readers yet. They and their followers end when `stopping` is cancelled.
    pub fn new(store: Store, stopping: CancellationToken) -> Self {
        let limits = Limits::halves(CATCHING_UP, CATCHING_UP_WAITING_MAX);
        let catching_up = Permits::new(limits, Duration::MAX);
        let (rings, budget) = (Mutex::default(), Budget::default());
        Self(Arc::new(Inner { store, rings, budget, catching_up, stopping }))
    }

    /// A follower of the tenant's log behind `after`; the first of a tenant starts its reader.
    pub async fn follow(
        &self,
        record: &TenantRecord,
        after: u64,
        filter: LogFilter,
    ) -> Result<Follower, StoreError> {
        let handle = self.0.store.tenant(record.id);
        let ring = self.ring(&handle, &record.slug).await?;
        Ok(Follower::new(ring, handle, record.slug.clone(), after, filter, self.0.catching_up.clone()))
    }

    async fn ring(&self, handle: &TenantStore, slug: &TenantSlug) -> Result<Arc<Ring>, StoreError> {
        if let Some(ring) = self.known(handle.id()) {
            return Ok(ring);
        }
        // Before the head is read: a move in between wakes the reader.
        let moved = self.0.store.watch_head(handle.id());
        let head = handle.head().await?;
        let mut rings = lock(&self.0.rings);
        if let Some(ring) = rings.get(&handle.id()).and_then(Weak::upgrade).filter(|ring| !ring.is_closed()) {
            return Ok(ring);
        }
        let stop = self.0.stopping.child_token();
        let ring = Ring::new(head.log_id, head.position, Arc::clone(&self.0.budget), stop.clone());
        let ring = Arc::new(ring);
        let is_first = rings.is_empty();
        rings.insert(handle.id(), Arc::downgrade(&ring));
        drop(rings);
        let reader = Reader {
            ring: Arc::downgrade(&ring),
            nudge: Arc::clone(&ring.nudge),
            handle: handle.clone(),
            slug: slug.clone(),
            at: head.position,
        };
        tokio::spawn(reader.run(moved, stop));
        if is_first {
            tokio::spawn(self.clone().watch());
        }
        Ok(ring)
    }

    fn known(&self, tenant: TenantId) -> Option<Arc<Ring>> {
        lock(&self.0.rings).get(&tenant).and_then(Weak::upgrade).filter(|ring| !ring.is_closed())
    }

    /// Looks after the rings until there are none.
    async fn watch(self) {
        let mut looks = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.0.stopping.cancelled() => return,
                _ = looks.tick() => {}
            }
            let followed: HashMap<TenantId, Arc<Ring>> = {
                let mut rings = lock(&self.0.rings);
                rings.retain(|_, ring| ring.strong_count() > 0);
                if rings.is_empty() {
                    return;
                }
                rings.iter().filter_map(|(tenant, ring)| Some((*tenant, ring.upgrade()?))).collect()
            };
            let tenants: Vec<TenantId> = followed.keys().copied().collect();
            match self.0.store.standings(&tenants).await {
                Ok(standings) => standings.iter().for_each(|standing| apply(standing, &followed)),
                Err(error) => {
                    tracing::debug!(error = %Causes(&error), "the tenants of open streams could not be looked at");
                }
            }
        }
    }
}

/// Closes the streams of a tenant that is on hold or whose log is another one, and wakes a reader that was not told.
fn apply(standing: &Standing, followed: &HashMap<TenantId, Arc<Ring>>) {
    let Some(ring) = followed.get(&standing.tenant) else { return };
    if standing.suspended {
        ring.close(Closing::TenantUnknown);
    } else if standing.log_id != ring.log_id {
        ring.close(Closing::LogReplaced);
    } else if standing.position != ring.end() {
        ring.nudge.notify_one();
    }
}

/// Reads one tenant's log for all of its followers.
struct Reader {
    ring: Weak<Ring>,
    nudge: Arc<Notify>,
    handle: TenantStore,
    slug: TenantSlug,
    at: u64,
}

impl Reader {
    async fn run(mut self, mut moved: watch::Receiver<u64>, stop: CancellationToken) {
        let (mut failures, everything) = (0_u32, LogFilter::default());
        loop {
            moved.mark_unchanged();
            let read = tokio::select! {
                () = stop.cancelled() => return,
                read = self.handle.read_log_page(self.at, None, PAGE, &everything) => read,
            };
            metrics::counter!("annals_event_stream_reads_total", "source" => "shared_reader").increment(1);
            let Some(ring) = self.ring.upgrade() else { return };
            let wait = match read {
                Ok(page) if page.log_id != ring.log_id || page.head < self.at => {
                    return ring.close(Closing::LogReplaced);
                }
                Ok(page) => match Frame::of_all(&self.handle, &self.slug, page.events).await {
                    Ok(frames) => {
                        failures = 0;
                        ring.push(frames);
                        self.at = page.scanned_to;
                        if self.at < page.head {
                            continue;
                        }
                        None
                    }
                    Err(FrameError::Store(error)) if error.is_unavailable() => {
                        tracing::warn!(tenant = %self.handle.id(), error = %Causes(&error), "events cannot be opened for followers");
                        failures += 1;
                        Some(wait_after(failures))
                    }
                    Err(error) => {
                        tracing::error!(tenant = %self.handle.id(), error = %Causes(&error), "an event cannot be sent to followers");
                        return ring.close(Closing::Internal);
                    }
                },
                Err(error) => {
                    tracing::warn!(tenant = %self.handle.id(), error = %Causes(&error), "the log cannot be read for its followers");
                    failures += 1;
                    Some(wait_after(failures))
                }
            };
            drop(ring);
            self.pause(wait, &mut moved, &stop).await;
        }
    }

    /// Waits until there may be something to read, or for the given time.
    async fn pause(
        &self,
        wait: Option<Duration>,
        moved: &mut watch::Receiver<u64>,
        stop: &CancellationToken,
    ) {
        if let Some(wait) = wait {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            _ = moved.changed() => {}
            () = self.nudge.notified() => {}
        }
    }
}

fn wait_after(failures: u32) -> Duration {
    WAIT.0.saturating_mul(2_u32.saturating_pow(failures.min(8))).min(WAIT.1)
}

fn lock<T>(rings: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding it.
    rings.lock().unwrap_or_else(PoisonError::into_inner)
}
