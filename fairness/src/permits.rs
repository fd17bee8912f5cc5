//! A semaphore that serves keys round-robin.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::Key;
use crate::scheduler::{FairScheduler, Limits};

/// The reason why no permit was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The queue of the key, or of all keys, is full.
    #[error("too many requests are waiting")]
    QueueFull,
    /// No permit was free within the maximum wait.
    #[error("no permit came up in time")]
    TimedOut,
}

/// A fair semaphore. Cheap to clone; the clones share the permits.
pub struct Permits<K: Key> {
    shared: Arc<Shared<K>>,
}

impl<K: Key> Clone for Permits<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

struct Shared<K: Key> {
    state: Mutex<State<K>>,
    wait: Duration,
}

struct State<K: Key> {
    scheduler: FairScheduler<K, Waiter<K>>,
    next_id: u64,
}

struct Waiter<K: Key> {
    id: u64,
    reply: oneshot::Sender<Permit<K>>,
}

/// A held permit; dropping it releases it.
#[must_use = "a permit is given back when it is dropped"]
pub struct Permit<K: Key> {
    shared: Arc<Shared<K>>,
    key: K,
}

impl<K: Key> Permits<K> {
    /// Creates a semaphore with all permits free. `wait` is the maximum wait; `Duration::MAX` means no limit.
    pub fn new(limits: Limits, wait: Duration) -> Self {
        let state = State { scheduler: FairScheduler::new(limits), next_id: 0 };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), wait }) }
    }

    /// Waits for a permit of the key, fairly between keys. Dropping the future removes the request from the queue.
    ///
    /// # Errors
    /// [`Refused::QueueFull`] when too many requests wait, [`Refused::TimedOut`] after the maximum wait.
    pub async fn acquire(&self, key: K) -> Result<Permit<K>, Refused> {
        let (reply, granted) = oneshot::channel();
        let id = {
            let mut state = self.shared.lock();
            let id = state.next_id;
            state.next_id += 1;
            state.scheduler.push(key.clone(), Waiter { id, reply }).map_err(|_| Refused::QueueFull)?;
            id
        };
        // Created before the first await, so that the request always leaves the queue.
        let _guard = QueueGuard { shared: &self.shared, key: &key, id };
        self.shared.grant();
        match tokio::time::timeout(self.shared.wait, granted).await {
            Ok(Ok(permit)) => Ok(permit),
            // The sender is dropped only together with this request.
            Ok(Err(_)) | Err(_) => Err(Refused::TimedOut),
        }
    }

    /// The number of waiting requests of all keys.
    pub fn waiting(&self) -> usize {
        self.shared.lock().scheduler.waiting()
    }

    /// The number of permits that the key holds.
    pub fn held(&self, key: &K) -> usize {
        self.shared.lock().scheduler.held(key)
    }
}

impl<K: Key> Shared<K> {
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        // The state is consistent after each step, so a poisoned lock is harmless.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grant(self: &Arc<Self>) {
        loop {
            // Release the lock before sending: dropping an unwanted permit takes the lock again.
            let Some((key, waiter)) = ({ self.lock().scheduler.next() }) else { return };
            drop(waiter.reply.send(Permit { shared: Arc::clone(self), key }));
        }
    }
}

impl<K: Key> Drop for Permit<K> {
    fn drop(&mut self) {
        self.shared.lock().scheduler.release(&self.key);
        self.shared.grant();
    }
}

impl<K: Key> std::fmt::Debug for Permit<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Permit(..)")
    }
}

/// Removes a request from the queue when it ends in any way.
struct QueueGuard<'a, K: Key> {
    shared: &'a Shared<K>,
    key: &'a K,
    id: u64,
}

impl<K: Key> Drop for QueueGuard<'_, K> {
    fn drop(&mut self) {
        self.shared.lock().scheduler.remove(self.key, |waiter| waiter.id == self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use futures::poll;

    use super::*;

    fn permits(permits: usize, permits_per_key: usize, reserved: usize) -> Permits<&'static str> {
        let limits = Limits { permits, permits_per_key, reserved, waiting: 50, waiting_total: 200 };
        Permits::new(limits, Duration::from_secs(3))
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_one_key_costs_another_key_one_turn() {
        let permits = permits(1, 1, 0);
        let held = permits.acquire("flood").await.expect("free");
        let mut flood: Vec<_> = (0..40).map(|_| Box::pin(permits.acquire("flood"))).collect();
        for request in &mut flood {
            assert!(poll!(request).is_pending());
        }
        let mut other = Box::pin(permits.acquire("other"));
        assert!(poll!(&mut other).is_pending());
        drop(held);
        let first = flood.remove(0).await.expect("its turn");
        assert!(poll!(&mut other).is_pending());
        drop(first);
        drop(other.await.expect("its turn comes before the rest of the flood"));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_by_time_and_by_count() {
        let permits = permits(1, 1, 0);
        let held = permits.acquire("a").await.expect("free");
        let begun = tokio::time::Instant::now();
        let answers = join_all((0..60).map(|_| permits.acquire("a"))).await;
        let count =
            |refused| answers.iter().filter(|answer| matches!(answer, Err(why) if *why == refused)).count();
        assert_eq!((count(Refused::TimedOut), count(Refused::QueueFull)), (50, 10));
        assert_eq!(begun.elapsed().as_secs(), 3);
        assert_eq!(permits.waiting(), 0);
        drop(held);
        assert!(permits.acquire("b").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_request_leaves_the_queue_and_a_permit_on_its_way_comes_back() {
        let permits = permits(1, 1, 0);
        let held = permits.acquire("a").await.expect("free");
        let mut waits = Box::pin(permits.acquire("b"));
        assert!(poll!(&mut waits).is_pending());
        drop(waits);
        assert_eq!(permits.waiting(), 0);
        let mut granted = Box::pin(permits.acquire("b"));
        assert!(poll!(&mut granted).is_pending());
        drop(held);
        assert_eq!(permits.held(&"b"), 1, "on its way");
        drop(granted);
        assert_eq!(permits.held(&"b"), 0);
        assert_eq!(permits.shared.lock().scheduler.keys(), 0, "idle keys take no memory");
        assert!(permits.acquire("c").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_finds_a_permit_while_others_hang() {
        let permits = permits(16, 4, 4);
        let mut hanging = Vec::new();
        for key in ["a", "b", "c", "d", "e"] {
            for _ in 0..8 {
                let mut request = Box::pin(permits.acquire(key));
                if let std::task::Poll::Ready(permit) = poll!(&mut request) {
                    hanging.push(permit.expect("granted"));
                }
            }
        }
        let begun = tokio::time::Instant::now();
        assert!(permits.acquire("f").await.is_ok());
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
