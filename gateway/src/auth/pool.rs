//! A few threads of their own for work that burns processor time, behind a short queue. When the queue is full the work
//! is refused at once: a flood of logins must not starve everything else, and a client that waits in vain is worse off
//! than one that is told to come again.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::oneshot;

/// Why work was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The queue is full.
    #[error("too much work is queued")]
    Full,
    /// The threads are gone, or one failed with this work.
    #[error("worker stopped")]
    Stopped,
}

type Work<C> = Box<dyn FnOnce(&mut C) + Send>;

/// The threads; each keeps a `C` of its own between pieces of work. They end when the pool is dropped.
pub struct Pool<C> {
    queue: SyncSender<Work<C>>,
}

impl<C: 'static> Pool<C> {
    /// Starts `threads` threads named `name`, with room for `queued` pieces of work beside those being done.
    pub fn start(name: &str, threads: usize, queued: usize, context: fn() -> C) -> std::io::Result<Self> {
        let (queue, work) = sync_channel::<Work<C>>(queued);
        let work = Arc::new(Mutex::new(work));
        for number in 0..threads.max(1) {
            let work = work.clone();
            thread::Builder::new().name(format!("{name}-{number}")).spawn(move || serve(&work, context))?;
        }
        Ok(Self { queue })
    }

    /// Does `work` on one of the threads. Work whose caller has gone is skipped.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut C) -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let (answer, answered) = oneshot::channel();
        let work: Work<C> = Box::new(move |context| {
            if !answer.is_closed() {
                // The caller may leave while the work is done; then nobody needs the answer.
                drop(answer.send(work(context)));
            }
        });
        self.queue.try_send(work).map_err(|refused| match refused {
            TrySendError::Full(_) => PoolError::Full,
            TrySendError::Disconnected(_) => PoolError::Stopped,
        })?;
        answered.await.map_err(|_| PoolError::Stopped)
    }
}

fn serve<C>(queue: &Mutex<Receiver<Work<C>>>, context: fn() -> C) {
    let mut own = context();
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(work) = next else { return };
        // A panic in one piece of work must not cost the pool a thread; its context may be half written.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut own)));
        if done.is_err() {
            own = context();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_recovers() {
        let pool = Arc::new(Pool::start("test", 1, 1, || ()).expect("threads"));
        let (release, blocked) = mpsc::channel::<()>();
        let (started, running) = oneshot::channel();

        let busy = tokio::spawn({
            let pool = pool.clone();
            async move {
                pool.run(move |()| {
                    started.send(()).expect("the test waits");
                    blocked.recv().expect("the test releases");
                })
                .await
            }
        });
        running.await.expect("the thread took the first piece");

        let mut queued = Box::pin(pool.run(|()| 1));
        assert!(futures::poll!(&mut queued).is_pending());
        assert_eq!(pool.run(|()| 2).await, Err(PoolError::Full));

        release.send(()).expect("the thread waits");
        assert_eq!(queued.await, Ok(1));
        assert_eq!(busy.await.expect("no panic"), Ok(()));
        assert_eq!(pool.run(|()| 3).await, Ok(3));
    }

    #[tokio::test]
    async fn a_panic_costs_no_thread() {
        let pool = Pool::start("test", 1, 4, || 0).expect("threads");
        assert_eq!(pool.run(|_| panic!("a bug")).await, Err::<(), _>(PoolError::Stopped));
        assert_eq!(pool.run(|count| *count + 1).await, Ok(1));
    }

    #[tokio::test]
    async fn work_without_a_caller_is_skipped() {
        let pool = Pool::start("test", 1, 4, || ()).expect("threads");
        let (release, blocked) = mpsc::channel::<()>();
        let mut busy = Box::pin(pool.run(move |()| blocked.recv().expect("the test releases")));
        assert!(futures::poll!(&mut busy).is_pending());
        let (done, was_done) = mpsc::channel::<()>();
        let mut abandoned = Box::pin(pool.run(move |()| done.send(())));
        assert!(futures::poll!(&mut abandoned).is_pending());
        drop(abandoned);
        release.send(()).expect("the thread waits");
        busy.await.expect("done");
        pool.run(|()| ()).await.expect("done");
        assert!(was_done.recv().is_err());
    }
}
