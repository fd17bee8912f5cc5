//! The configuration of the store.

use std::fmt;
use std::time::Duration;

use database::TlsConfig;
use keyring::Keyring;

use crate::DeploymentKey;

/// The connection to PostgreSQL and the limits of its use.
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
    /// The passwords of the runtime roles (`annals_appender`, `annals_tenant`, ...) are derived from it.
    pub runtime_password: String,
    /// The deployment key, see [`DeploymentKey`].
    pub key: DeploymentKey,
    /// Encrypts and decrypts personal data. A process without it can neither write nor read personal data.
    pub keyring: Option<Keyring>,
    /// Append workers with two connections each; at least 1. Best is one per core of the database server.
    pub append_workers: usize,
    /// Maximum connections for reads, half of them for reads in one round trip; and the same number for read models,
    /// sagas and webhooks. At least 4, so that the reads of one tenant leave a connection to others.
    pub pool_size: usize,
    /// Idle connections are closed after this time.
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
