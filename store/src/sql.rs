//! Types of the PostgreSQL client for queries: connections, rows and parameters.

pub use database::{NamedSql, Parameter, PooledConnection};
pub use tokio_postgres::Row;
pub use tokio_postgres::types::ToSql;
