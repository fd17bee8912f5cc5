//! What the store needs to know to reach PostgreSQL.

use std::fmt;
use std::time::Duration;

use database::TlsConfig;
use keyring::Keyring;

use crate::DeploymentKey;

/// Where PostgreSQL is and how much of it to use.
#[derive(Clone)]
pub struct StoreConfig {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database name.
    pub database: String,
    /// How connections are encrypted.
    pub tls: TlsConfig,
    /// From which the passwords of the runtime roles (`annals_appender`, `annals_tenant`, ...) are derived.
    pub runtime_password: String,
    /// See [`DeploymentKey`].
    pub key: DeploymentKey,
    /// Seals and opens personal data. A process without one can neither write nor read it.
    pub keyring: Option<Keyring>,
    /// Append lanes, of two connections each: one for each core of the database server is best; at least 1.
    pub append_workers: usize,
    /// Most connections that answer reads, and as many that keep read models, sagas and webhooks.
    pub pool_size: usize,
    /// How long a connection is kept that nothing uses.
    pub idle_timeout: Duration,
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("database", &self.database)
            .field("append_workers", &self.append_workers)
            .field("pool_size", &self.pool_size)
            .finish_non_exhaustive()
    }
}
