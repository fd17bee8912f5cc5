//! Types of the PostgreSQL clients for queries: connections, reads, rows and parameters.

pub use database::{NamedSql, Parameter, PooledConnection, RawRow, RawRows, Read, Value};
pub use tokio_postgres::Row;
pub use tokio_postgres::types::{FromSql, ToSql};
