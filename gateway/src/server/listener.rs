//! Accepting connections: never ends by an error, and bounds what it takes in.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use store::Causes;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::limits::{ConnectionLimits, ConnectionPermit};
use super::refusal::Refusal;

/// The wait after an accept that failed for want of something, doubled up to the longest while it goes on failing.
const BACKOFF: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How often at most failed accepts and refused connections are logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Takes connections from a socket.
pub struct Acceptor {
    pub name: &'static str,
    pub listener: TcpListener,
    pub limits: Arc<ConnectionLimits>,
    pub reserve: Arc<DescriptorReserve>,
}

/// A connection that was taken in.
pub struct Accepted {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    pub permit: ConnectionPermit,
}

impl Acceptor {
    /// The next connection within the limits; `None` when it is time to stop.
    pub async fn next(&self, log: &mut BoundedLog, stopping: &CancellationToken) -> Option<Accepted> {
        let mut backoff = BACKOFF;
        loop {
            let accepted = tokio::select! {
                () = stopping.cancelled() => return None,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    metrics::counter!("annals_accept_errors_total", "listener" => self.name).increment(1);
                    log.write(|left_out| {
                        tracing::error!(listener = self.name, error = %Causes(&error), left_out, "a connection cannot be accepted");
                    });
                    // A connection that ended while it waited is no reason to wait, nor is one for which there is a reserve.
                    if is_of_the_connection(&error) || self.reserve.release() {
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
            backoff = BACKOFF;
            match self.limits.admit(peer.ip()) {
                Ok(permit) => return Some(Accepted { stream, peer, permit }),
                Err(refusal) => {
                    let reason = refusal.as_str();
                    let counter = metrics::counter!("annals_connections_refused_total", "listener" => self.name, "reason" => reason);
                    counter.increment(1);
                    log.write(|left_out| {
                        tracing::warn!(
                            listener = self.name,
                            reason,
                            left_out,
                            "a connection was refused: its limit is reached"
                        );
                    });
                    refuse(stream);
                }
            }
        }
    }
}

fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Says why and closes. A client that is already sending may see a reset instead: waiting for it would take what the limit
/// spares.
fn refuse(stream: TcpStream) {
    if let Ok(mut stream) = stream.into_std() {
        // Without blocking: an empty send buffer takes all of it.
        drop(stream.write(&Refusal::TOO_MANY_CONNECTIONS.to_bytes()));
    }
}

/// File descriptors that are held only to be given up for a connection when the process has none left.
pub struct DescriptorReserve {
    size: usize,
    files: Mutex<Vec<File>>,
}

impl DescriptorReserve {
    /// Takes them.
    pub fn of(size: usize) -> Arc<Self> {
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

/// Lines of a log that a client could cause at will.
pub struct BoundedLog {
    next: Instant,
    left_out: u64,
}

impl BoundedLog {
    /// Writes the first line at once.
    pub fn new() -> Self {
        Self { next: Instant::now(), left_out: 0 }
    }

    fn write(&mut self, line: impl FnOnce(u64)) {
        if Instant::now() < self.next {
            self.left_out += 1;
            return;
        }
        line(std::mem::take(&mut self.left_out));
        self.next = Instant::now() + LOG_INTERVAL;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_log_that_clients_can_fill_counts_what_it_leaves_out() {
        let (mut log, mut lines) = (BoundedLog::new(), Vec::new());
        for _ in 0..5 {
            log.write(|left_out| lines.push(left_out));
        }
        tokio::time::advance(LOG_INTERVAL).await;
        log.write(|left_out| lines.push(left_out));
        assert_eq!(lines, [0, 4]);
    }

    #[test]
    fn a_reserve_is_given_up_and_taken_again() {
        let reserve = DescriptorReserve::of(2);
        assert!(reserve.release() && reserve.release());
        assert!(!reserve.release());
        reserve.refill();
        assert!(reserve.release());
    }
}
