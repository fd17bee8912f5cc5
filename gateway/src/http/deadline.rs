//! The time limits of a request. A server that has lost its database answers with an error within them. The time in
//! which a client sends its body does not count for the handler's limit.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use tokio::time::Instant;

/// Time limit of a handler without the time that it waits for the client. Clients are promised an answer within five
/// seconds.
const HANDLER_TIMEOUT: Duration = Duration::from_millis(4_500);
/// Time limit of a handler with the time that it waits for the client.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Minimum pause between two checks of the time.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Measures how long a request takes, and how much of that is waiting for the client.
pub(super) struct Deadline {
    started: Instant,
    handler: Duration,
    overall: Duration,
    client_wait: Arc<Mutex<ClientWait>>,
}

#[derive(Default)]
struct ClientWait {
    total: Duration,
    since: Option<Instant>,
}

impl ClientWait {
    fn total_elapsed(&self) -> Duration {
        self.total + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn pause(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    fn resume(&mut self) {
        if let Some(since) = self.since.take() {
            self.total += since.elapsed();
        }
    }
}

impl Deadline {
    /// Starts the clock now and measures the waits for the request's body.
    pub(super) fn start(request: Request) -> (Self, Request) {
        Self::with(request, HANDLER_TIMEOUT, REQUEST_TIMEOUT)
    }

    fn with(request: Request, handler: Duration, overall: Duration) -> (Self, Request) {
        let client_wait = Arc::new(Mutex::new(ClientWait::default()));
        let deadline =
            Self { started: Instant::now(), handler, overall, client_wait: Arc::clone(&client_wait) };
        let request = request
            .map(|body| if body.is_end_stream() { body } else { Body::new(TimedBody { body, client_wait }) });
        (deadline, request)
    }

    /// Returns when one of the limits is reached.
    pub(super) async fn expired(&self) {
        loop {
            let elapsed = self.started.elapsed();
            let handler_elapsed = elapsed.saturating_sub(lock(&self.client_wait).total_elapsed());
            let left = self.handler.saturating_sub(handler_elapsed).min(self.overall.saturating_sub(elapsed));
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.max(POLL_INTERVAL_MIN)).await;
        }
    }
}

/// A body that measures how long its reader waits for the client.
struct TimedBody {
    body: Body,
    client_wait: Arc<Mutex<ClientWait>>,
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match polled {
            Poll::Pending => lock(&self.client_wait).pause(),
            Poll::Ready(_) => lock(&self.client_wait).resume(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Drop for TimedBody {
    fn drop(&mut self) {
        lock(&self.client_wait).resume();
    }
}

fn lock(client_wait: &Mutex<ClientWait>) -> MutexGuard<'_, ClientWait> {
    // No code panics while it holds the lock.
    client_wait.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tokio::sync::mpsc;

    use super::*;

    const TEST_TIMEOUT: Duration = Duration::from_millis(50);

    fn request(body: Body) -> Request {
        Request::new(body)
    }

    #[tokio::test]
    async fn a_handler_has_its_time_and_no_more() {
        let (deadline, _request) = Deadline::with(request(Body::empty()), TEST_TIMEOUT, TEST_TIMEOUT * 100);
        let begun = Instant::now();
        deadline.expired().await;
        assert!((TEST_TIMEOUT..TEST_TIMEOUT * 50).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn waiting_for_the_client_is_not_counted_but_bounded() {
        let (_sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        let body = futures::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|chunk| (chunk, receiver))
        });
        let (deadline, request) =
            Deadline::with(request(Body::from_stream(body)), TEST_TIMEOUT, TEST_TIMEOUT * 6);
        let mut silent = request.into_body().into_data_stream();
        let begun = Instant::now();
        tokio::select! {
            () = deadline.expired() => {}
            _ = silent.next() => panic!("nothing was sent"),
        }
        assert!(begun.elapsed() >= TEST_TIMEOUT * 6, "{:?}", begun.elapsed());
    }
}
