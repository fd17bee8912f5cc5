//! Serves one HTTP/1.1 connection. Its buffers and its time without a request are limited.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use store::Causes;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::phase::{ConnectionPhase, Timeouts};
use super::request::RequestService;
use super::socket::Socket;

/// Maximum bytes of a request line with its header fields, and of each read and write buffer.
const BUFFER_BYTES_MAX: usize = 32 * 1024;
/// How long a client may read nothing; then the connection is closed. Longer than the timeout of streams, so that a
/// slow client can still read why its stream ended.
const WRITE_IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Serves a connection until it ends. After `stopping` is cancelled it accepts no further request.
pub async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    timeouts: Timeouts,
    requests: Arc<RequestService>,
    stopping: CancellationToken,
) {
    // Small responses are sent at once. A connection on which this option fails still works.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = %Causes(&error), "no TCP_NODELAY");
    }
    let phase = Arc::new(ConnectionPhase::new(timeouts));
    let socket = Socket::new(
        stream,
        peer.ip(),
        Arc::clone(&phase),
        Arc::clone(&requests.refusal_log),
        WRITE_IDLE_TIMEOUT,
    );
    let service = {
        let phase = Arc::clone(&phase);
        service_fn(move |request| {
            let (requests, phase) = (Arc::clone(&requests), Arc::clone(&phase));
            // hyper keeps room for this future as long as the connection lives, so an idle connection pays for a box only.
            Box::pin(async move { requests.answer(request, peer, phase).await })
        })
    };
    let mut http = http1::Builder::new();
    // hyper's header timeout also counts the time between requests, so it is off. The watchdog distinguishes the two.
    http.header_read_timeout(None).max_buf_size(BUFFER_BYTES_MAX).max_header_size(BUFFER_BYTES_MAX);
    let mut connection = pin!(http.serve_connection(TokioIo::new(socket), service).with_upgrades());
    let mut watchdog = Watchdog { phase: &phase, sleep: None };
    let mut stop = pin!(stopping.cancelled());
    let mut is_stopping = false;
    let ended = poll_fn(|context| {
        if !is_stopping && stop.as_mut().poll(context).is_ready() {
            is_stopping = true;
            connection.as_mut().graceful_shutdown();
        }
        let polled = connection.as_mut().poll(context);
        if polled.is_ready() || watchdog.poll(context).is_pending() {
            return polled.map(Some);
        }
        // The next read of the socket returns end of file.
        phase.expire();
        Poll::Ready(match connection.as_mut().poll(context) {
            Poll::Ready(ended) => Some(ended),
            Poll::Pending => None,
        })
    });
    if let Some(Err(error)) = ended.await {
        tracing::debug!(error = %Causes(&error), "a connection ended");
    }
}

/// Wakes the connection at its deadline. It reads the phase each time the connection is polled, so it needs no
/// notification.
struct Watchdog<'a> {
    phase: &'a ConnectionPhase,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Watchdog<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(deadline) = self.phase.deadline() else { return Poll::Pending };
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            // A later deadline is applied only when the earlier one has passed. Most connections make progress before
            // it.
            if deadline < sleep.deadline() {
                sleep.as_mut().reset(deadline);
            }
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}
