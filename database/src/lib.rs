//! Connections to PostgreSQL. Every PostgreSQL client of the product connects through this crate, so that TLS, time limits
//! and the way of reporting errors are the same for all.
//!
//! Layout: `config` says where a database is, `tls` builds the TLS client, `connector` connects and cancels statements,
//! `pool` keeps connections for reuse, `error` classifies what went wrong, `causes` shows it in logs.
//!
//! ```no_run
//! # async fn example() -> Result<(), database::ConnectError> {
//! let config = database::DatabaseConfig {
//!     host: "db.internal".to_owned(),
//!     port: 5432,
//!     name: "annals".to_owned(),
//!     user: "annals_worker".to_owned(),
//!     password: "secret".into(),
//!     application_name: "annals_worker".to_owned(),
//!     options: String::new(),
//!     tls: database::TlsConfig { mode: database::TlsMode::VerifyFull, ..Default::default() },
//! };
//! let connection = database::connect(&config).await?;
//! connection.client.simple_query("select 1").await?;
//! # Ok(())
//! # }
//! ```

mod causes;
mod config;
mod connector;
mod error;
mod pool;
mod tls;

pub use causes::Causes;
pub use config::{DatabaseConfig, Password, TlsConfig, TlsMode, UnknownTlsMode};
pub use connector::{CONNECT_TIMEOUT, Connection, Connector, Listener, connect};
pub use error::{ConnectError, describe, is_transient};
pub use pool::{POOL_WAIT_TIMEOUT, Pool, PoolError, PooledConnection};
pub use tls::TlsError;
