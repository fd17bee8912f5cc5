//! The bound on a request: a server that has lost its database answers in time that it has, instead of hanging with it.
//! What a slow client takes to send its body is not counted against the handler.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use tokio::time::Instant;

/// The time of a handler in which the client is not waited for. Below the five seconds that clients are promised.
const HANDLER_TIMEOUT: Duration = Duration::from_millis(4_500);
/// The time of a handler, with everything.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The shortest nap between two looks at the time.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// How long a request may take, and how much of that went by waiting for its client.
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
    /// Starts now, and watches the request's body.
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

    /// Returns when the time is up.
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

/// A body that notes when its reader waits for the client.
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
    // Nothing panics while holding it.
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
