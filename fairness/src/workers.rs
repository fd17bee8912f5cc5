//! Blocking work with fair permits: on blocking threads, with a limit in total and per key.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::Key;
use crate::permits::{Permits, Refused};
use crate::scheduler::Limits;

/// The reason why work was not done.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// No permit was granted.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The work panicked, or the runtime is shutting down.
    #[error("the work stopped")]
    Stopped(#[source] tokio::task::JoinError),
}

/// Runs work on blocking threads. Cheap to clone; the clones share the permits.
///
/// Each piece of work borrows a context `C`, such as memory that is expensive to allocate. Contexts are reused.
/// There are at most as many contexts as permits.
pub struct Workers<K: Key, C = ()> {
    permits: Permits<K>,
    contexts: Arc<Mutex<Vec<C>>>,
}

impl<K: Key, C> Clone for Workers<K, C> {
    fn clone(&self) -> Self {
        Self { permits: self.permits.clone(), contexts: Arc::clone(&self.contexts) }
    }
}

impl<K: Key, C: Default + Send + 'static> Workers<K, C> {
    /// Creates workers. `wait` is the maximum wait for a permit.
    pub fn new(limits: Limits, wait: Duration) -> Self {
        Self { permits: Permits::new(limits, wait), contexts: Arc::default() }
    }

    /// Runs the work when the key gets a permit.
    ///
    /// A request that is dropped while it waits is not executed.
    /// One that is dropped while it runs keeps its permit until the work ends, because it still uses the thread.
    ///
    /// # Errors
    /// [`WorkError::Refused`] without a permit, [`WorkError::Stopped`] when the work panics or the runtime shuts down.
    pub async fn run<T: Send + 'static>(
        &self,
        key: K,
        work: impl FnOnce(&mut C) -> T + Send + 'static,
    ) -> Result<T, WorkError> {
        let permit = self.permits.acquire(key).await?;
        let contexts = Arc::clone(&self.contexts);
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            // If the work panics, its context is dropped, because it may be inconsistent.
            let mut context = { lock(&contexts).pop() }.unwrap_or_default();
            let done = work(&mut context);
            lock(&contexts).push(context);
            done
        });
        done.await.map_err(WorkError::Stopped)
    }

    /// The number of waiting requests of all keys.
    pub fn waiting(&self) -> usize {
        self.permits.waiting()
    }
}

fn lock<C>(contexts: &Mutex<Vec<C>>) -> std::sync::MutexGuard<'_, Vec<C>> {
    contexts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn workers(permits: usize) -> Workers<u8, u32> {
        Workers::new(Limits { permits, ..Limits::half_per_key(permits, 100) }, Duration::from_secs(30))
    }

    #[tokio::test]
    async fn work_runs_beside_the_async_workers_and_contexts_are_kept() {
        // There is one async worker: the test would hang if the work ran on it.
        let workers = workers(1);
        let (release, blocked) = mpsc::channel::<()>();
        let mut busy = Box::pin(workers.run(1, move |_| blocked.recv().expect("released")));
        assert!(futures::poll!(&mut busy).is_pending());
        release.send(()).expect("it runs");
        busy.await.expect("done");
        for expected in 1..4 {
            let counted = workers.run(1, |count| {
                *count += 1;
                *count
            });
            assert_eq!(counted.await.expect("done"), expected);
        }
    }

    #[tokio::test]
    async fn a_panic_costs_neither_a_permit_nor_the_context_of_others() {
        let workers = workers(1);
        let panicked = workers.run(1, |_| panic!("a bug")).await;
        assert!(matches!(panicked, Err::<(), _>(WorkError::Stopped(_))));
        assert_eq!(workers.run(1, |count| *count).await.expect("done"), 0);
    }

    #[tokio::test]
    async fn a_key_that_fills_its_share_leaves_a_thread_to_others() {
        let workers = workers(2);
        let (release, blocked) = mpsc::channel::<()>();
        let mut busy = Box::pin(workers.run(1, move |_| blocked.recv().expect("released")));
        assert!(futures::poll!(&mut busy).is_pending());
        let mut queued = Box::pin(workers.run(1, |_| ()));
        assert!(futures::poll!(&mut queued).is_pending());
        assert_eq!(workers.run(2, |_| 7).await.expect("another key has a thread"), 7);
        assert!(futures::poll!(&mut queued).is_pending());
        release.send(()).expect("it runs");
        busy.await.expect("done");
        queued.await.expect("done");
    }
}
