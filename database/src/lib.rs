//! Connections to PostgreSQL. All clients of the product use this crate, so that TLS, timeouts and errors are the same.
//!
//! `config` has the settings, `tls` builds the TLS client, `connector` connects and cancels statements, `pool` reuses
//! connections, `reads` runs groups of reads in one round trip, `named_sql` names the parameters of statements, `error`
//! classifies errors, and `causes` formats them for logs.
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
mod named_sql;
mod pool;
mod reads;
mod tls;

pub use causes::{Causes, describe};
pub use config::{DatabaseConfig, Password, TlsConfig, TlsMode, UnknownTlsMode};
pub use connector::{CONNECT_TIMEOUT, Connection, Connector, Listener, connect};
pub use error::{ConnectError, is_transient};
pub use named_sql::{NamedSql, Parameter};
pub use pool::{POOL_WAIT_TIMEOUT, Pool, PoolError, PooledConnection};
pub use reads::{RawRow, RawRows, Read, ReadError, ReadPool, ReadPoolConfig, Value};
pub use tls::TlsError;
