//! The pieces of the PostgreSQL client that queries name: rows and parameters.

pub use tokio_postgres::Row;
pub use tokio_postgres::types::ToSql;
