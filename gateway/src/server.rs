//! Serves a router on a listener until told to stop.

mod patience;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use self::patience::PatientListener;

/// How long requests that are being answered may take after the call to stop.
const GRACE: Duration = Duration::from_secs(3);
/// How long a client may take nothing of what is sent to it. Above what a stream's own limit is set to, so that a client
/// that comes back in between still learns why its stream ended.
const PATIENCE: Duration = Duration::from_mins(1);
/// What is left to do when the last answer is complete: write it to its socket.
const FLUSH: Duration = Duration::from_millis(100);

/// Serves until `stopping` is cancelled; then takes no more connections, and returns when the requests under way are
/// answered, after three seconds at the latest.
pub async fn serve(listener: TcpListener, router: Router, stopping: CancellationToken) -> io::Result<()> {
    let listener = PatientListener { listener, patience: PATIENCE }.tap_io(|connection| {
        // Small answers must not wait for more. A connection that refuses the option still works.
        if let Err(error) = connection.set_nodelay() {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
    });
    let under_way = TaskTracker::new();
    let router = router.layer(from_fn_with_state(under_way.clone(), track));
    let answered = {
        let stopping = stopping.clone();
        async move {
            stopping.cancelled().await;
            under_way.close();
            if tokio::time::timeout(GRACE, under_way.wait()).await.is_err() {
                tracing::warn!("requests were still under way when the listener closed");
            } else {
                tokio::time::sleep(FLUSH).await;
            }
        }
    };
    let router = router.into_make_service_with_connect_info::<SocketAddr>();
    let graceful = axum::serve(listener, router).with_graceful_shutdown(stopping.cancelled_owned());
    // The server itself also waits for connections over which no request has come yet; nobody waits for those.
    tokio::select! {
        served = graceful.into_future() => served,
        () = answered => Ok(()),
    }
}

/// What a handler takes a token of whose work outlives its answer, such as a WebSocket: the process waits for it as for
/// requests under way.
#[derive(Clone)]
pub struct UnderWay(TaskTracker);

impl UnderWay {
    /// Under way for as long as the token lives.
    pub fn token(&self) -> TaskTrackerToken {
        self.0.token()
    }
}

/// Counts a request as under way until the last of its answer has been taken.
async fn track(State(under_way): State<TaskTracker>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(UnderWay(under_way.clone()));
    let token = under_way.token();
    next.run(request).await.map(|body| Body::new(Tracked { body, _token: token }))
}

struct Tracked {
    body: Body,
    _token: TaskTrackerToken,
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn a_request_under_way_is_answered_and_silent_connections_are_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (reached, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let router = Router::new().route("/", {
            let (reached, go_on) = (reached.clone(), go_on.clone());
            get(|| async move {
                reached.notify_one();
                go_on.notified().await;
                "answered"
            })
        });
        let stopping = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, router, stopping.clone()));

        let silent = TcpStream::connect(address).await.expect("connected");
        let mut asking = TcpStream::connect(address).await.expect("connected");
        asking.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        reached.notified().await;
        stopping.cancel();
        assert!(!serving.is_finished());
        go_on.notify_one();
        let mut answer = Vec::new();
        asking.read_to_end(&mut answer).await.expect("answered and closed");
        assert!(String::from_utf8_lossy(&answer).ends_with("answered"));
        tokio::time::timeout(GRACE / 2, serving).await.expect("soon").expect("no panic").expect("served");
        drop(silent);
    }
}
