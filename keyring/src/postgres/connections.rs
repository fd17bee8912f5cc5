//! Connections to the key database: a few, opened on demand, only to a server that accepts writes.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use database::{Connection, Connector};
use tokio::sync::Semaphore;
use tokio_postgres::Client;

use crate::{KeyDatabase, KeyringError};

/// Maximum wait for a connection.
const CONNECTION_WAIT_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum waiting callers per kind of connection; more are refused.
const CONNECTION_WAITERS_MAX: usize = 4_096;
/// A connection that was idle for this time is closed when the next one is returned.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// Statements touch a few rows by their keys. A statement that takes longer waits for a lock of a process that hangs.
const SESSION_OPTIONS: &str = "-c statement_timeout=5s -c idle_in_transaction_session_timeout=5s -c jit=off";

pub(super) struct Connections {
    connector: Connector,
    permits: Semaphore,
    waiting: Semaphore,
    idle: Mutex<Vec<(Connection, Instant)>>,
}

impl Connections {
    /// Creates the connection settings, without connecting.
    pub(super) fn new(database: &KeyDatabase, max: usize) -> Result<Self, KeyringError> {
        let login = database.login(&database.user, database.password.reveal(), SESSION_OPTIONS);
        let connector = Connector::new(&login).map_err(|error| KeyringError::Config(error.to_string()))?;
        Ok(Self {
            connector,
            permits: Semaphore::new(max),
            waiting: Semaphore::new(CONNECTION_WAITERS_MAX),
            idle: Mutex::default(),
        })
    }

    /// Runs statements on a connection of its own. A connection is not reused after an error.
    pub(super) async fn run<T>(
        &self,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, KeyringError>,
    ) -> Result<T, KeyringError> {
        let waits = self.waiting.try_acquire().map_err(|_| KeyringError::Overloaded)?;
        let permit = tokio::time::timeout(CONNECTION_WAIT_TIMEOUT, self.permits.acquire()).await;
        let _permit = permit.map_err(|_| KeyringError::Overloaded)?.expect("it is never closed");
        drop(waits);
        let mut connection = match self.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let result = work(&mut connection.client).await;
        if result.is_ok() {
            self.release(connection);
        }
        result
    }

    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop())
            .map(|(connection, _)| connection)
            .find(|connection| !connection.client.is_closed())
    }

    fn release(&self, connection: Connection) {
        let now = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| now.duration_since(*since) < IDLE_TIMEOUT);
        idle.push((connection, now));
    }

    /// Connects to a primary only, because a standby may still have keys that are destroyed.
    /// A commit waits for the disk, and for a synchronous standby if there is one, whatever the server's default is.
    async fn connect(&self) -> Result<Connection, KeyringError> {
        let connection = self.connector.connect().await?;
        let sql = "select pg_is_in_recovery() or current_setting('transaction_read_only')::boolean,
                          set_config('synchronous_commit', case
                              when current_setting('synchronous_commit') in ('off', 'local') then 'on'
                              else current_setting('synchronous_commit') end, false)";
        if connection.client.query_one(sql, &[]).await?.get(0) {
            return Err(KeyringError::Unavailable("the database of keys takes no writes".to_owned()));
        }
        Ok(connection)
    }
}
