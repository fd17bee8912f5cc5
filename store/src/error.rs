//! What can go wrong between the product and PostgreSQL.

use schemas::engine::{InvalidValue, LogId};

/// An error of the store. Domain refusals of an append are [`AppendError`](crate::AppendError)s.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// PostgreSQL cannot be reached or does not answer in time; trying again later may help.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// Too much is waiting already; trying again later may help.
    #[error("too many requests are waiting for the database")]
    Overloaded,
    /// No such tenant.
    #[error("the tenant is unknown")]
    TenantUnknown,
    /// The position named belongs to a log that this one has replaced.
    #[error("the log was replaced; the tenant's log is now {current}")]
    LogReplaced {
        /// The log that the tenant has now.
        current: LogId,
    },
    /// A row does not hold what it must hold.
    #[error("stored data does not read: {0}")]
    Corrupt(String),
    /// PostgreSQL refused a statement.
    #[error("the database refused a statement")]
    Database(#[source] tokio_postgres::Error),
    /// A setting is wrong.
    #[error("{0}")]
    Config(String),
    /// The schema could not be brought up to date.
    #[error("migration failed: {0}")]
    Migration(String),
}

impl StoreError {
    /// Whether trying again later may help.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Overloaded)
    }

    pub(crate) fn corrupt(what: &str, cause: impl std::fmt::Display) -> Self {
        Self::Corrupt(format!("{what}: {cause}"))
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        use tokio_postgres::error::SqlState;
        let Some(state) = error.code() else {
            // No code: the connection broke or never stood.
            return Self::Unavailable(describe(&error));
        };
        let class = &state.code()[..2];
        // 08 connection, 53 resources, 57 operator intervention (shutdown, cancel), 58 system, 40 rollback, 25006 a
        // server in recovery.
        if matches!(class, "08" | "53" | "57" | "58" | "40") || *state == SqlState::READ_ONLY_SQL_TRANSACTION
        {
            Self::Unavailable(describe(&error))
        } else {
            Self::Database(error)
        }
    }
}

impl From<deadpool_postgres::PoolError> for StoreError {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        use deadpool_postgres::{PoolError, TimeoutType};
        match error {
            PoolError::Timeout(TimeoutType::Wait) => Self::Overloaded,
            PoolError::Backend(error) => error.into(),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

impl From<InvalidValue> for StoreError {
    fn from(error: InvalidValue) -> Self {
        Self::Corrupt(error.to_string())
    }
}

/// PostgreSQL's own message where there is one: the client's `Display` says only "db error". The message never holds
/// parameters.
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{} ({})", db.message(), db.code().code());
    }
    let cause = std::error::Error::source(error).map(ToString::to_string);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
