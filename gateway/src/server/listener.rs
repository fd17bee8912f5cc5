//! Accepting connections: never ends by an error, and bounds what it takes in.

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

/// The wait after an accept that failed for want of something, doubled up to the longest while it goes on failing.
const BACKOFF_INITIAL: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How often at most the log warns of failed accepts and of limits that are reached.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Takes connections from a socket.
pub struct Acceptor {
    pub name: &'static str,
    pub listener: TcpListener,
    pub limits: Arc<ConnectionLimits>,
    pub reserve: Arc<DescriptorReserve>,
    pub refusal_log: Arc<RefusalLog>,
}

/// A connection that was taken in.
pub struct Accepted {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    pub permit: ConnectionPermit,
}

/// Warnings that clients can cause: the first at once, the others now and then.
pub fn warnings() -> RateLimitedLog {
    RateLimitedLog::new(1, WARNING_INTERVAL)
}

impl Acceptor {
    /// The next connection within the limits; `None` when it is time to stop.
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
                    // A connection that ended while it waited is no reason to wait, nor is one for which there is a reserve.
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

/// Says why and closes. A client that is already sending may see a reset instead: waiting for it would take what the limit
/// spares.
fn refuse(stream: TcpStream, answer: &[u8]) {
    if let Ok(mut stream) = stream.into_std() {
        // Without blocking: an empty send buffer takes all of it.
        drop(stream.write(answer));
    }
}

/// File descriptors that are held only to be given up for a connection when the process has none left.
pub struct DescriptorReserve {
    size: usize,
    files: Mutex<Vec<File>>,
}

impl DescriptorReserve {
    /// Takes them.
    pub fn new(size: usize) -> Arc<Self> {
        let reserve = Arc::new(Self { size, files: Mutex::default() });
        reserve.refill();
        reserve
    }

    /// Takes again what was given up, as far as there is any.
    pub fn refill(&self) {
        let mut files = self.files();
        while files.len() < self.size
            && let Ok(file) = File::open("/dev/null")
        {
            files.push(file);
        }
    }

    /// Gives one up, where there is one.
    fn release(&self) -> bool {
        self.files().pop().is_some()
    }

    fn files(&self) -> MutexGuard<'_, Vec<File>> {
        // Nothing panics while holding it.
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
