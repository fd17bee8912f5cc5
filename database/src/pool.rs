//! A pool of connections of one login. It opens a connection when one is needed, closes it when it was idle for a while, and
//! takes it back only when nothing runs on it and no transaction is open.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row, Statement};
use tokio_util::task::AbortOnDropHandle;

use crate::{ConnectError, Connection, Connector};

/// How long a caller waits for a connection that others use.
pub const POOL_WAIT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the rollback of an abandoned transaction may take until its connection is closed instead.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(2);
/// Statements that a connection keeps prepared. At the limit all are closed.
const PREPARED_STATEMENTS_MAX: usize = 256;

/// Why a pool has no connection to give.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// All connections were in use for [`POOL_WAIT_TIMEOUT`].
    #[error("all connections to the database are in use")]
    Exhausted,
    /// A new one cannot be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Connections of one login. Cheap to clone.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    connector: Connector,
    permits: Arc<Semaphore>,
    size: usize,
    idle_timeout: Duration,
    /// The one used last is at the end and is used next, so that those that are not needed become idle.
    idle: Mutex<Vec<(Session, Instant)>>,
    sweeper: OnceLock<AbortOnDropHandle<()>>,
}

struct Session {
    connection: Connection,
    statements: Mutex<HashMap<Box<str>, Statement>>,
}

impl Pool {
    /// A pool of at most `size` connections, at least one. A connection that was idle for `idle_timeout` is closed.
    pub fn new(connector: Connector, size: usize, idle_timeout: Duration) -> Self {
        let size = size.max(1);
        Self(Arc::new(Inner {
            connector,
            permits: Arc::new(Semaphore::new(size)),
            size,
            idle_timeout,
            idle: Mutex::default(),
            sweeper: OnceLock::new(),
        }))
    }

    /// How many connections it opens at most.
    pub fn size(&self) -> usize {
        self.0.size
    }

    /// An idle connection, a new one, or the first that another caller gives back.
    pub async fn get(&self) -> Result<PooledConnection, PoolError> {
        let waiting = Arc::clone(&self.0.permits).acquire_owned();
        let permit = tokio::time::timeout(POOL_WAIT_TIMEOUT, waiting).await;
        let permit =
            permit.map_err(|_| PoolError::Exhausted)?.expect("the semaphore of a pool is never closed");
        self.0.sweeper.get_or_init(|| AbortOnDropHandle::new(tokio::spawn(sweep(Arc::downgrade(&self.0)))));
        let idle = loop {
            match lock(&self.0.idle).pop() {
                Some((session, _)) if session.connection.client.is_closed() => {}
                idle => break idle,
            }
        };
        let session = match idle {
            Some((session, _)) => session,
            None => Session { connection: self.0.connector.connect().await?, statements: Mutex::default() },
        };
        Ok(PooledConnection {
            lease: Some(Lease { session, pool: Arc::clone(&self.0), _permit: permit }),
            companion: None,
            running: AtomicU32::new(0),
            in_transaction: AtomicBool::new(false),
        })
    }
}

/// Closes connections that were idle for too long, as long as the pool exists.
async fn sweep(pool: Weak<Inner>) {
    loop {
        let Some(timeout) = pool.upgrade().map(|pool| pool.idle_timeout) else { return };
        tokio::time::sleep((timeout / 4).max(Duration::from_millis(50))).await;
        let Some(pool) = pool.upgrade() else { return };
        lock(&pool.idle)
            .retain(|(session, since)| since.elapsed() < timeout && !session.connection.client.is_closed());
    }
}

/// A connection in use. Dropped in the middle of a statement it cancels the statement, dropped in the middle of a transaction
/// it rolls back, and only then it goes back to the pool.
pub struct PooledConnection {
    /// Taken when the connection is given back.
    lease: Option<Lease>,
    /// Dropped when the connection is given back, and not before.
    companion: Option<Box<dyn Send + Sync>>,
    /// Statements whose answer has not arrived. One that was dropped stays counted.
    running: AtomicU32,
    in_transaction: AtomicBool,
}

struct Lease {
    session: Session,
    pool: Arc<Inner>,
    /// Given back after the session, so that a pool never has more connections than permits.
    _permit: OwnedSemaphorePermit,
}

impl PooledConnection {
    /// Keeps a value, such as a permit, until the connection is given back. That may be later than the drop of this.
    #[must_use]
    pub fn with_companion(mut self, companion: impl Send + Sync + 'static) -> Self {
        self.companion = Some(Box::new(companion));
        self
    }

    /// All rows of a statement. It stays prepared on this connection.
    pub async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        let session = self.session();
        self.run(async { session.connection.client.query(&session.prepare(sql).await?, parameters).await })
            .await
    }

    /// The row of a statement that finds one at most.
    pub async fn query_opt(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, Error> {
        let session = self.session();
        self.run(async {
            session.connection.client.query_opt(&session.prepare(sql).await?, parameters).await
        })
        .await
    }

    /// The row of a statement that finds exactly one.
    pub async fn query_one(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, Error> {
        let session = self.session();
        self.run(async {
            session.connection.client.query_one(&session.prepare(sql).await?, parameters).await
        })
        .await
    }

    /// Runs a statement and returns how many rows it touched.
    pub async fn execute(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        let session = self.session();
        self.run(async { session.connection.client.execute(&session.prepare(sql).await?, parameters).await })
            .await
    }

    /// Runs statements without parameters.
    pub async fn batch_execute(&self, sql: &str) -> Result<(), Error> {
        self.run(self.session().connection.client.batch_execute(sql)).await
    }

    /// Begins a transaction by these statements, of which `begin` is the first.
    pub async fn begin(&self, sql: &str) -> Result<(), Error> {
        self.in_transaction.store(true, Ordering::Relaxed);
        self.batch_execute(sql).await
    }

    /// Commits the transaction and gives the connection back.
    pub async fn commit(self) -> Result<(), Error> {
        self.batch_execute("commit").await?;
        self.in_transaction.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn session(&self) -> &Session {
        &self.lease.as_ref().expect("the lease is taken when the connection is dropped").session
    }

    async fn run<T>(&self, statement: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.running.fetch_add(1, Ordering::Relaxed);
        // Boxed: callers' futures stay small.
        let answer = Box::pin(statement).await;
        self.running.fetch_sub(1, Ordering::Relaxed);
        answer
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let companion = self.companion.take();
        let (running, open) = (*self.running.get_mut() > 0, *self.in_transaction.get_mut());
        if !running && !open {
            lease.release();
            return;
        }
        // Where the runtime is gone nobody uses the connection again, and it is closed with the lease.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if lease.reset(running, open).await {
                    lease.release();
                }
                drop(companion);
            });
        }
    }
}

impl Lease {
    fn release(self) {
        let Self { session, pool, _permit } = self;
        if !session.connection.client.is_closed() {
            lock(&pool.idle).push((session, Instant::now()));
        }
    }

    /// Ends what runs on the connection. `false` where that is not certain: then the connection must be closed.
    async fn reset(&self, running: bool, in_transaction: bool) -> bool {
        let client = &self.session.connection.client;
        if running && self.pool.connector.cancel(&client.cancel_token()).await.is_err() {
            return false;
        }
        // An empty statement is answered when everything before it has ended.
        let statement = if in_transaction { "rollback" } else { "" };
        for _ in 0..2 {
            match tokio::time::timeout(ROLLBACK_TIMEOUT, client.batch_execute(statement)).await {
                Ok(Ok(())) => return true,
                // The request to cancel came between two statements and hit this one.
                Ok(Err(error)) if error.code() == Some(&SqlState::QUERY_CANCELED) => {}
                _ => return false,
            }
        }
        false
    }
}

impl Session {
    async fn prepare(&self, sql: &str) -> Result<Statement, Error> {
        if let Some(statement) = lock(&self.statements).get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.connection.client.prepare(sql).await?;
        let mut statements = lock(&self.statements);
        if statements.len() >= PREPARED_STATEMENTS_MAX {
            statements.clear();
        }
        statements.insert(sql.into(), statement.clone());
        Ok(statement)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
