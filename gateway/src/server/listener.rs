//! Accepts connections within limits. Errors never end the loop.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use schemas::engine::RequestId;
use store::Causes;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::limits::{ConnectionLimits, ConnectionPermit};
use super::rate_limited_log::RateLimitedLog;
use super::refusal::RequestRefusal;
use super::refusal_log::RefusalLog;

/// The pause after `accept` fails for lack of resources. It doubles with each failure up to `BACKOFF_MAX`.
const BACKOFF_INITIAL: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Minimum interval between warnings about failed accepts and reached limits.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts connections from a socket.
pub struct Acceptor {
    pub name: &'static str,
    pub listener: TcpListener,
    pub limits: Arc<ConnectionLimits>,
    pub reserve: Arc<DescriptorReserve>,
    pub refusal_log: Arc<RefusalLog>,
}

/// An accepted connection.
pub struct Accepted {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    pub permit: ConnectionPermit,
}

/// A log for warnings that clients can cause: at most one in `WARNING_INTERVAL`.
pub fn warnings() -> RateLimitedLog {
    RateLimitedLog::new(1, WARNING_INTERVAL)
}

impl Acceptor {
    /// The next connection within the limits. `None` after the stop signal.
    pub async fn next(
        &self,
        warnings: &mut RateLimitedLog,
        stopping: &CancellationToken,
    ) -> Option<Accepted> {
        let mut backoff = BACKOFF_INITIAL;
        loop {
            let accepted = tokio::select! {
                () = stopping.cancelled() => return None,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    metrics::counter!("annals_accept_errors_total", "listener" => self.name).increment(1);
                    if let Some(left_out) = warnings.acquire() {
                        tracing::error!(listener = self.name, error = %Causes(&error), left_out, "a connection cannot be accepted");
                    }
                    // No pause when the connection ended before it was accepted, or when the reserve has freed a
                    // descriptor.
                    if is_connection_error(&error) || self.reserve.release() {
                        continue;
                    }
                    tokio::select! {
                        () = stopping.cancelled() => return None,
                        () = tokio::time::sleep(backoff) => {}
                    }
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    continue;
                }
            };
            backoff = BACKOFF_INITIAL;
            match self.limits.acquire(peer.ip()) {
                Ok(permit) => return Some(Accepted { stream, peer, permit }),
                Err(refusal) => {
                    if let Some(left_out) = warnings.acquire() {
                        tracing::warn!(
                            listener = self.name,
                            reason = refusal.as_str(),
                            left_out,
                            "a connection was refused: its limit is reached"
                        );
                    }
                    let (answer, id) = (RequestRefusal::TOO_MANY_CONNECTIONS, RequestId::generate());
                    self.refusal_log.record_connection(refusal, peer.ip(), answer, &id);
                    refuse(stream, &answer.to_bytes(&id));
                }
            }
        }
    }
}

fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Sends the reason and closes. A client that is still sending may get a reset instead: waiting for it would use the
/// resources that the limit protects.
fn refuse(stream: TcpStream, answer: &[u8]) {
    if let Ok(mut stream) = stream.into_std() {
        // The write does not block: an empty send buffer takes all of it.
        drop(stream.write(answer));
    }
}

/// File descriptors held in reserve. One is closed to accept a connection when the process has no other left.
pub struct DescriptorReserve {
    size: usize,
    files: Mutex<Vec<File>>,
}

impl DescriptorReserve {
    /// Opens `size` descriptors.
    pub fn new(size: usize) -> Arc<Self> {
        let reserve = Arc::new(Self { size, files: Mutex::default() });
        reserve.refill();
        reserve
    }

    /// Opens as many descriptors as were given up, if the process has some again.
    pub fn refill(&self) {
        let mut files = self.files();
        while files.len() < self.size
            && let Ok(file) = File::open("/dev/null")
        {
            files.push(file);
        }
    }

    /// Closes one descriptor. False when none is left.
    fn release(&self) -> bool {
        self.files().pop().is_some()
    }

    fn files(&self) -> MutexGuard<'_, Vec<File>> {
        // No code panics while it holds the lock.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_given_up_and_taken_again() {
        let reserve = DescriptorReserve::new(2);
        assert!(reserve.release() && reserve.release());
        assert!(!reserve.release());
        reserve.refill();
        assert!(reserve.release());
    }
}
