//! A pool of connections of one login.
//!
//! It opens connections on demand and closes idle ones.
//! A connection returns to the pool only without a running statement and without an open transaction.

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

use crate::named_sql::{NamedSql, Parameter};
use crate::{ConnectError, Connection, Connector};

/// Maximum wait for a connection of a full pool.
pub const POOL_WAIT_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of the rollback of an abandoned transaction; afterwards the connection is closed.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum prepared statements per connection. At the maximum all are closed.
const PREPARED_STATEMENTS_MAX: usize = 256;

/// The reason why a pool returns no connection.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// All connections were in use for [`POOL_WAIT_TIMEOUT`].
    #[error("all connections to the database are in use")]
    Exhausted,
    /// A new connection failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// A pool of connections of one login. Cheap to clone.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    connector: Connector,
    permits: Arc<Semaphore>,
    size: usize,
    idle_timeout: Duration,
    /// The last used connection is at the end and is used next, so that unneeded ones become idle.
    idle: Mutex<Vec<(Session, Instant)>>,
    sweeper: OnceLock<AbortOnDropHandle<()>>,
}

struct Session {
    connection: Connection,
    statements: Mutex<HashMap<Box<str>, Statement>>,
}

impl Pool {
    /// A pool of at most `size` connections (at least 1). A connection that was idle for `idle_timeout` is closed.
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

    /// The maximum number of connections.
    pub fn size(&self) -> usize {
        self.0.size
    }

    /// An idle connection, a new one, or the first one that another caller returns.
    ///
    /// # Errors
    /// [`PoolError::Exhausted`] after [`POOL_WAIT_TIMEOUT`], [`PoolError::Connect`] when a new connection fails.
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

/// Closes idle connections, until the pool is dropped.
async fn sweep(pool: Weak<Inner>) {
    loop {
        let Some(timeout) = pool.upgrade().map(|pool| pool.idle_timeout) else { return };
        tokio::time::sleep((timeout / 4).max(Duration::from_millis(50))).await;
        let Some(pool) = pool.upgrade() else { return };
        lock(&pool.idle)
            .retain(|(session, since)| since.elapsed() < timeout && !session.connection.client.is_closed());
    }
}

/// A pooled connection in use.
///
/// Dropping it cancels a running statement and rolls back an open transaction, before it returns to the pool.
pub struct PooledConnection {
    /// `None` after the drop.
    lease: Option<Lease>,
    /// Dropped when the connection has returned to the pool.
    companion: Option<Box<dyn Send + Sync>>,
    /// Statements without an answer yet. A dropped statement stays counted.
    running: AtomicU32,
    in_transaction: AtomicBool,
}

struct Lease {
    session: Session,
    pool: Arc<Inner>,
    /// Dropped after the session, so that a pool never has more connections than permits.
    _permit: OwnedSemaphorePermit,
}

impl PooledConnection {
    /// Keeps a value, such as a permit, until the connection has returned to the pool, which may be after its drop.
    #[must_use]
    pub fn with_companion(mut self, companion: impl Send + Sync + 'static) -> Self {
        self.companion = Some(Box::new(companion));
        self
    }

    /// Returns all rows of a statement, which stays prepared on this connection.
    ///
    /// # Errors
    /// [`Error`] when the connection breaks, or when PostgreSQL refuses the statement.
    pub async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        let session = self.session();
        self.run(async { session.connection.client.query(&session.prepare(sql).await?, parameters).await })
            .await
    }

    /// Returns the only row of a statement, if any.
    ///
    /// # Errors
    /// [`Error`] when the connection breaks, or when PostgreSQL refuses the statement.
    /// Also when the statement finds several rows.
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

    /// Returns the only row of a statement.
    ///
    /// # Errors
    /// Also when the statement finds no row or several.
    pub async fn query_one(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, Error> {
        let session = self.session();
        self.run(async {
            session.connection.client.query_one(&session.prepare(sql).await?, parameters).await
        })
        .await
    }

    /// Executes a statement and returns the number of affected rows.
    ///
    /// # Errors
    /// [`Error`] when the connection breaks, or when PostgreSQL refuses the statement.
    pub async fn execute(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        let session = self.session();
        self.run(async { session.connection.client.execute(&session.prepare(sql).await?, parameters).await })
            .await
    }

    /// As [`query`](Self::query), with named parameters: `:name` in the text.
    ///
    /// # Errors
    /// [`Error`] when the connection breaks, or when PostgreSQL refuses the statement.
    pub async fn query_named(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Error> {
        let sql = NamedSql::parse(sql);
        self.query(&sql.text, &sql.bind(parameters)).await
    }

    /// As [`query_opt`](Self::query_opt), with named parameters.
    ///
    /// # Errors
    /// [`Error`] when the connection breaks, or when PostgreSQL refuses the statement.
    /// Also when the statement finds several rows.
    pub async fn query_opt_named(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Option<Row>, Error> {
        let sql = NamedSql::parse(sql);
        self.query_opt(&sql.text, &sql.bind(parameters)).await
    }

    /// As [`execute`](Self::execute), with named parameters.
    ///
    /// # Errors
    /// [`Error`] when the connection breaks, or when PostgreSQL refuses the statement.
    pub async fn execute_named(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<u64, Error> {
        let sql = NamedSql::parse(sql);
        self.execute(&sql.text, &sql.bind(parameters)).await
    }

    /// Executes statements without parameters.
    ///
    /// # Errors
    /// [`Error`] when the connection breaks, or when PostgreSQL refuses a statement.
    pub async fn batch_execute(&self, sql: &str) -> Result<(), Error> {
        self.run(self.session().connection.client.batch_execute(sql)).await
    }

    /// Begins a transaction. `sql` starts with `begin` and may have more statements.
    ///
    /// # Errors
    /// [`Error`] when the connection breaks, or when PostgreSQL refuses a statement.
    pub async fn begin(&self, sql: &str) -> Result<(), Error> {
        self.in_transaction.store(true, Ordering::Relaxed);
        self.batch_execute(sql).await
    }

    /// Commits the transaction and returns the connection to the pool.
    ///
    /// # Errors
    /// [`Error`] when the connection breaks, or when PostgreSQL refuses the commit.
    /// After a broken connection, the transaction may have committed.
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
        // Boxed to keep the futures of callers small.
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
        // Without a runtime, the connection is closed with the lease.
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

    /// Ends what runs on the connection. Returns `false` when that is not certain: then the connection must be closed.
    async fn reset(&self, running: bool, in_transaction: bool) -> bool {
        let client = &self.session.connection.client;
        if running && self.pool.connector.cancel(&client.cancel_token()).await.is_err() {
            return false;
        }
        // The answer of an empty statement shows that everything before it has ended.
        let statement = if in_transaction { "rollback" } else { "" };
        for _ in 0..2 {
            match tokio::time::timeout(ROLLBACK_TIMEOUT, client.batch_execute(statement)).await {
                Ok(Ok(())) => return true,
                // The cancellation came between two statements and hit this one.
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
    // Code that holds these locks does not panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
