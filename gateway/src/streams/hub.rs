//! One log reader for each tenant that has followers in this process. Every two seconds one query on the directory
//! finds tenants that are suspended or whose log was replaced.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use fairness::{Limits, Permits};
use schemas::engine::{TenantId, TenantSlug};
use store::{Causes, LogFilter, Store, StoreError, TenantRecord, TenantStatus, TenantStore};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::disconnect_reason::DisconnectReason;
use super::follower::StreamFollower;
use super::frame::{Frame, FrameError};
use super::ring::{Budget, Ring};

/// Maximum events of one read.
const PAGE_SIZE: usize = 200;
/// The interval between queries on the directory.
pub(super) const STATUS_POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The pause after a failed read: the first one, and the maximum.
const RETRY_BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Maximum concurrent reads by followers whose position is before their ring. The limit leaves database connections
/// for other requests.
const CATCH_UP_READS_MAX: usize = 4;
/// Maximum followers of one tenant that wait for such a read. Larger than the number of streams of a process.
const CATCH_UP_READS_QUEUED_MAX: usize = 100_000;

/// The readers of this process. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<HubState>);

struct HubState {
    store: Store,
    rings: Mutex<HashMap<TenantId, Weak<Ring>>>,
    budget: Budget,
    catch_up_permits: Permits<TenantId>,
    stopping: CancellationToken,
}

impl Hub {
    /// A hub without readers. Readers and followers end when `stopping` is cancelled.
    pub fn new(store: Store, stopping: CancellationToken) -> Self {
        let limits = Limits::half_per_key(CATCH_UP_READS_MAX, CATCH_UP_READS_QUEUED_MAX);
        let catch_up_permits = Permits::new(limits, Duration::MAX);
        let (rings, budget) = (Mutex::default(), Budget::default());
        Self(Arc::new(HubState { store, rings, budget, catch_up_permits, stopping }))
    }

    /// A follower of the tenant's log after the position `after`. The first follower of a tenant starts its reader.
    ///
    /// # Errors
    /// When the head of the log cannot be read for a new reader: [`StoreError::TenantUnknown`] when the tenant does not
    /// exist, otherwise another [`StoreError`].
    pub async fn follow(
        &self,
        record: &TenantRecord,
        after: u64,
        filter: LogFilter,
    ) -> Result<StreamFollower, StoreError> {
        let handle = self.0.store.tenant(record.id);
        let ring = self.ring(&handle, &record.slug).await?;
        Ok(StreamFollower::new(
            ring,
            handle,
            record.slug.clone(),
            after,
            filter,
            self.0.catch_up_permits.clone(),
        ))
    }

    async fn ring(&self, handle: &TenantStore, slug: &TenantSlug) -> Result<Arc<Ring>, StoreError> {
        if let Some(ring) = self.open_ring(handle.id()) {
            return Ok(ring);
        }
        // Subscribe before the head is read, so that a change in between wakes the reader.
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
        let reader = RingReader {
            ring: Arc::downgrade(&ring),
            wake_reader: Arc::clone(&ring.wake_reader),
            handle: handle.clone(),
            slug: slug.clone(),
            at: head.position,
        };
        tokio::spawn(reader.run(moved, stop));
        if is_first {
            tokio::spawn(self.clone().poll_tenants());
        }
        Ok(ring)
    }

    fn open_ring(&self, tenant: TenantId) -> Option<Arc<Ring>> {
        lock(&self.0.rings).get(&tenant).and_then(Weak::upgrade).filter(|ring| !ring.is_closed())
    }

    /// Checks the status of followed tenants until no ring is left.
    async fn poll_tenants(self) {
        let mut polls = tokio::time::interval_at(
            tokio::time::Instant::now() + STATUS_POLL_INTERVAL,
            STATUS_POLL_INTERVAL,
        );
        polls.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.0.stopping.cancelled() => return,
                _ = polls.tick() => {}
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
            match self.0.store.tenant_statuses(&tenants).await {
                Ok(tenant_statuses) => {
                    for status in &tenant_statuses {
                        apply_tenant_status(status, &followed);
                    }
                }
                Err(error) => {
                    tracing::debug!(error = %Causes(&error), "the tenants of open streams could not be looked at");
                }
            }
        }
    }
}

/// Closes the streams of a tenant that is suspended or has another log. Wakes a reader that missed a notification.
fn apply_tenant_status(status: &TenantStatus, followed: &HashMap<TenantId, Arc<Ring>>) {
    let Some(ring) = followed.get(&status.tenant) else { return };
    if status.suspended {
        ring.close(DisconnectReason::TenantUnknown);
    } else if status.log_id != ring.log_id {
        ring.close(DisconnectReason::LogReplaced);
    } else if status.position != ring.end() {
        ring.wake_reader.notify_one();
    }
}

/// Reads one tenant's log for all of its followers.
struct RingReader {
    ring: Weak<Ring>,
    wake_reader: Arc<Notify>,
    handle: TenantStore,
    slug: TenantSlug,
    at: u64,
}

impl RingReader {
    async fn run(mut self, mut moved: watch::Receiver<u64>, stop: CancellationToken) {
        let (mut failures, everything) = (0_u32, LogFilter::default());
        loop {
            moved.mark_unchanged();
            let read = tokio::select! {
                () = stop.cancelled() => return,
                read = self.handle.read_log_page(self.at, None, PAGE_SIZE, &everything) => read,
            };
            metrics::counter!("annals_event_stream_reads_total", "source" => "shared_reader").increment(1);
            let Some(ring) = self.ring.upgrade() else { return };
            let wait = match read {
                Ok(page) if page.log_id != ring.log_id || page.head < self.at => {
                    return ring.close(DisconnectReason::LogReplaced);
                }
                Ok(page) => match Frame::from_events(&self.handle, &self.slug, page.events).await {
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
                        Some(backoff_after(failures))
                    }
                    Err(error) => {
                        tracing::error!(tenant = %self.handle.id(), error = %Causes(&error), "an event cannot be sent to followers");
                        return ring.close(DisconnectReason::Internal);
                    }
                },
                Err(error) => {
                    tracing::warn!(tenant = %self.handle.id(), error = %Causes(&error), "the log cannot be read for its followers");
                    failures += 1;
                    Some(backoff_after(failures))
                }
            };
            drop(ring);
            self.pause(wait, &mut moved, &stop).await;
        }
    }

    /// Waits for `wait`, or without it until the log may have new events.
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
            () = self.wake_reader.notified() => {}
        }
    }
}

fn backoff_after(failures: u32) -> Duration {
    RETRY_BACKOFF.0.saturating_mul(2_u32.saturating_pow(failures.min(8))).min(RETRY_BACKOFF.1)
}

fn lock<T>(rings: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds the lock.
    rings.lock().unwrap_or_else(PoisonError::into_inner)
}
