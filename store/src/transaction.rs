//! A transaction on the rows of one tenant.

use database::{Parameter, PooledConnection};
use schemas::engine::TenantId;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::pools::FairPool;
use crate::{Head, StoreError};

/// A transaction of one tenant.
///
/// Dropped without a commit, it cancels its running statement and rolls back.
/// The connection returns to the pool only after the rollback has succeeded.
/// The tenant setting ends with the transaction.
pub struct TenantTransaction {
    tenant: TenantId,
    connection: PooledConnection,
}

impl TenantTransaction {
    pub(crate) async fn begin(pool: &FairPool, tenant: TenantId) -> Result<Self, StoreError> {
        Self::begin_at(pool, tenant, "read committed").await
    }

    pub(crate) async fn begin_at(pool: &FairPool, tenant: TenantId, level: &str) -> Result<Self, StoreError> {
        let connection = pool.get(tenant).await?;
        let begin =
            format!("begin isolation level {level}; select set_config('annals.tenant', '{tenant}', true)");
        connection.begin(&begin).await?;
        Ok(Self { tenant, connection })
    }

    pub(crate) fn connection(&self) -> &PooledConnection {
        &self.connection
    }

    /// The tenant of the transaction.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// The head of the log as this transaction sees it.
    ///
    /// # Errors
    /// [`StoreError::TenantUnknown`] when the tenant does not exist.
    pub async fn head(&self) -> Result<Head, StoreError> {
        let statement = format!("select {} from heads where tenant_id = $1", crate::heads::COLUMNS);
        let row = self.query_opt(&statement, &[&self.tenant.0]).await?;
        row.as_ref().map(crate::heads::head_from).ok_or(StoreError::TenantUnknown)
    }

    /// Returns all rows of a statement. Each connection caches prepared statements by text, so use few different texts.
    ///
    /// # Errors
    /// [`StoreError::Interrupted`] when the connection breaks, or when the server ends the statement after a timeout.
    /// [`StoreError::Database`] when PostgreSQL refuses the statement.
    pub async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, StoreError> {
        Ok(self.connection.query(sql, parameters).await?)
    }

    /// Returns the only row of a statement, if any.
    ///
    /// # Errors
    /// Also when the statement finds more than one row.
    pub async fn query_opt(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.connection.query_opt(sql, parameters).await?)
    }

    /// Executes a statement and returns the number of affected rows.
    ///
    /// # Errors
    /// [`StoreError::Interrupted`] when the connection breaks, or when the server ends the statement after a timeout.
    /// [`StoreError::Database`] when PostgreSQL refuses the statement.
    pub async fn execute(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64, StoreError> {
        Ok(self.connection.execute(sql, parameters).await?)
    }

    /// As [`query`](Self::query), with named parameters: `:name` in the text.
    ///
    /// # Errors
    /// [`StoreError::Interrupted`] when the connection breaks, or when the server ends the statement after a timeout.
    /// [`StoreError::Database`] when PostgreSQL refuses the statement.
    pub async fn query_named(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, StoreError> {
        Ok(self.connection.query_named(sql, parameters).await?)
    }

    /// As [`query_opt`](Self::query_opt), with named parameters.
    ///
    /// # Errors
    /// [`StoreError::Interrupted`] when the connection breaks, or when the server ends the statement after a timeout.
    /// [`StoreError::Database`] when PostgreSQL refuses the statement.
    /// Also [`StoreError::Interrupted`] when the statement finds more than one row.
    pub async fn query_opt_named(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.connection.query_opt_named(sql, parameters).await?)
    }

    /// As [`execute`](Self::execute), with named parameters.
    ///
    /// # Errors
    /// [`StoreError::Interrupted`] when the connection breaks, or when the server ends the statement after a timeout.
    /// [`StoreError::Database`] when PostgreSQL refuses the statement.
    pub async fn execute_named(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<u64, StoreError> {
        Ok(self.connection.execute_named(sql, parameters).await?)
    }

    /// Commits, and returns the connection to the pool.
    ///
    /// # Errors
    /// [`StoreError::Interrupted`] when the connection breaks; the transaction may have committed then.
    /// [`StoreError::Database`] when PostgreSQL refuses the commit.
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.connection.commit().await?)
    }
}
