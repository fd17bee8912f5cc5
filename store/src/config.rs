//! What the store needs to know to reach PostgreSQL.

use std::fmt;

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
    /// The password of the runtime roles (`annals_appender`, `annals_tenant`, ...).
    pub runtime_password: String,
    /// See [`DeploymentKey`].
    pub key: DeploymentKey,
    /// Seals and opens personal data. A process without one can neither write nor read it.
    pub keyring: Option<Keyring>,
    /// Append connections: one for each core of the database server is best; at least 1.
    pub append_lanes: usize,
    /// Most connections of each pool.
    pub pool_size: usize,
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("database", &self.database)
            .field("append_lanes", &self.append_lanes)
            .field("pool_size", &self.pool_size)
            .finish_non_exhaustive()
    }
}
