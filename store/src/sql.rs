//! Types of the PostgreSQL client for queries: rows and parameters.

pub use tokio_postgres::Row;
pub use tokio_postgres::types::ToSql;
