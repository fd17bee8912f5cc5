//! A pool of read connections of one login: it opens connections when groups wait, and closes idle ones.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::connection::{self, Outcome, Progress, Request};
use super::error::{Failure, ReadError};
use super::group::{Group, Read};
use super::queues::Queues;
use super::rows::RawRows;
use crate::{CONNECT_TIMEOUT, Connector, POOL_WAIT_TIMEOUT};

/// The sessions are read-only, and a group has one snapshot.
const SESSION_OPTIONS: &str =
    r"-c default_transaction_isolation=repeatable\ read -c default_transaction_read_only=on";
/// Maximum runs of a group, the first one included. It runs again after a broken connection, a changed schema or the
/// cancellation of another group.
const RUNS_MAX: usize = 3;

/// Maximum further wait of a group while a connection is being opened: a little longer than that takes.
const LAST_WAIT: Duration = CONNECT_TIMEOUT.saturating_add(Duration::from_millis(500));

/// The limits of a pool.
#[derive(Debug, Clone, Copy)]
pub struct ReadPoolConfig {
    /// Maximum connections; at least 1.
    pub connections: usize,
    /// Maximum connections with groups of one key.
    pub connections_per_key: usize,
    /// A connection that was idle for this time is closed.
    pub idle_timeout: Duration,
}

/// A pool of read connections of one login. Dropping it closes them.
pub struct ReadPool(Arc<SharedReads>);

struct SharedReads {
    connector: Connector,
    idle_timeout: Duration,
    state: Mutex<ReadPoolState>,
}

struct ReadPoolState {
    queues: Queues,
    next_id: u64,
}

impl ReadPool {
    /// A pool without connections.
    pub fn new(connector: &Connector, config: ReadPoolConfig) -> Self {
        let connections = config.connections.max(1);
        let queues = Queues::new(connections, config.connections_per_key.clamp(1, connections));
        Self(Arc::new(SharedReads {
            connector: connector.with_options(SESSION_OPTIONS),
            idle_timeout: config.idle_timeout,
            state: Mutex::new(ReadPoolState { queues, next_id: 0 }),
        }))
    }

    /// Runs a group of statements in one transaction and one round trip. Returns the rows of each statement.
    ///
    /// The pool serves keys fairly, and a connection has groups of one key at a time.
    /// A group runs again when its connection breaks or its prepared plan is outdated, so it must only read.
    /// Dropping the future drops the answer; a statement that runs for long is cancelled.
    ///
    /// # Errors
    /// [`ReadError::Exhausted`] when no connection takes the group within [`POOL_WAIT_TIMEOUT`], and none is being opened.
    /// [`ReadError::Connect`] when no connection can be opened, [`ReadError::Broken`] when connections break repeatedly.
    /// [`ReadError::Refused`] when PostgreSQL refuses a statement, [`ReadError::TooLarge`] when it is too large.
    pub async fn read(&self, key: Uuid, reads: &[Read<'_>]) -> Result<Vec<RawRows>, ReadError> {
        let group = Arc::new(Group::new(reads)?);
        let mut runs = 0;
        loop {
            runs += 1;
            match self.run(key, &group).await {
                Ok(rows) => return Ok(rows),
                Err(failure) if failure.can_run_again && runs < RUNS_MAX => {}
                Err(failure) => return Err(failure.error),
            }
        }
    }

    async fn run(&self, key: Uuid, group: &Arc<Group>) -> Outcome {
        let (reply, mut answer) = oneshot::channel();
        let mut waiting = self.0.push(key, Arc::clone(group), reply)?;
        let mut limit = POOL_WAIT_TIMEOUT;
        let answer = loop {
            match tokio::time::timeout(limit, &mut answer).await {
                Ok(answer) => break answer,
                // The connection that is being opened is for this group, or its error is.
                Err(_) if limit != LAST_WAIT && self.0.lock().queues.opening > 0 => limit = LAST_WAIT,
                Err(_) if waiting.leave() => return Err(exhausted()),
                // A connection has it. The server limits the time of its statements.
                Err(_) => break answer.await,
            }
        };
        waiting.is_done = true;
        answer.unwrap_or_else(|_| {
            let aborted = std::io::ErrorKind::ConnectionAborted.into();
            Err(Failure { error: ReadError::broken(aborted), can_run_again: false })
        })
    }
}

fn exhausted() -> Failure {
    Failure { error: ReadError::Exhausted, can_run_again: false }
}

impl SharedReads {
    fn lock(&self) -> MutexGuard<'_, ReadPoolState> {
        // Code that holds the lock does not panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(
        self: &Arc<Self>,
        key: Uuid,
        group: Arc<Group>,
        reply: oneshot::Sender<Outcome>,
    ) -> Result<Waiting<'_>, Failure> {
        let mut state = self.lock();
        state.next_id += 1;
        let id = state.next_id;
        if !state.queues.push(key, Request { id, group, reply }) {
            return Err(exhausted());
        }
        self.dispatch(state);
        Ok(Waiting { shared: self, key, id, is_done: false })
    }

    fn dispatch(self: &Arc<Self>, mut state: MutexGuard<'_, ReadPoolState>) {
        let opened = state.queues.dispatch();
        for _ in 0..opened {
            state.next_id += 1;
            tokio::spawn(open(Arc::downgrade(self), self.connector.clone(), state.next_id));
        }
    }

    fn report(self: &Arc<Self>, id: u64, progress: Progress) {
        let mut state = self.lock();
        match progress {
            Progress::Answered => state.queues.answered(id),
            Progress::Idle => state.queues.remove_idle_slot(id),
            Progress::Closed => state.queues.remove_slot(id),
        }
        self.dispatch(state);
    }
}

/// Opens a connection and drives it to its end.
async fn open(pool: Weak<SharedReads>, connector: Connector, id: u64) {
    let login = connector.login().await;
    let (sender, requests) = mpsc::unbounded_channel();
    let (login, idle_timeout) = {
        let Some(shared) = pool.upgrade() else { return };
        let mut state = shared.lock();
        state.queues.opening -= 1;
        match login {
            Ok(login) => {
                state.queues.add_slot(id, sender);
                shared.dispatch(state);
                (login, shared.idle_timeout)
            }
            Err(error) => {
                // With other connections, the groups wait for those.
                let failed = if state.queues.is_disconnected() { state.queues.drain() } else { Vec::new() };
                drop(state);
                let error = Arc::new(error);
                for request in failed {
                    let error = ReadError::Connect(Arc::clone(&error));
                    drop(request.reply.send(Err(Failure { error, can_run_again: false })));
                }
                return;
            }
        }
    };
    let report = |progress| {
        if let Some(shared) = pool.upgrade() {
            shared.report(id, progress);
        }
    };
    connection::drive(login, connector, requests, idle_timeout, report).await;
}

/// A group in the pool. Dropping it removes it from the queue.
struct Waiting<'a> {
    shared: &'a Arc<SharedReads>,
    key: Uuid,
    id: u64,
    is_done: bool,
}

impl Waiting<'_> {
    /// Returns `false` when a connection has the group already.
    fn leave(&mut self) -> bool {
        self.is_done = true;
        self.shared.lock().queues.remove(self.key, self.id).is_some()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.leave();
        }
    }
}
