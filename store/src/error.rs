//! What can go wrong between the product and PostgreSQL.

use keyring::KeyringError;
use schemas::engine::{InvalidValue, LogId};
use tokio_postgres::error::SqlState;
use uuid::Uuid;

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
    /// Something is sealed under a key that is neither there nor destroyed. It is no erasure: an operator has to restore the
    /// store of keys, and until then nothing is said of the subject.
    #[error(
        "the key {key} of the subject {subject} is missing, and it was not destroyed: restore the store of keys"
    )]
    KeyMissing {
        /// Whose key it is.
        subject: Uuid,
        /// The key's id.
        key: Uuid,
    },
    /// The keys of personal data cannot be used; trying again later may help.
    #[error("the keys of personal data are unavailable")]
    Keys(#[source] KeyringError),
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
        matches!(self, Self::Unavailable(_) | Self::Overloaded | Self::Keys(_) | Self::KeyMissing { .. })
    }

    pub(crate) fn corrupt(what: &str, cause: impl std::fmt::Display) -> Self {
        Self::Corrupt(format!("{what}: {cause}"))
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        // No code: the connection broke or never stood.
        if error.code().is_none_or(may_pass_by_itself) {
            Self::Unavailable(describe(&error))
        } else {
            Self::Database(error)
        }
    }
}

/// Whether what the server said may be another time: 08 connection, 53 resources, 57 operator intervention (shutdown,
/// cancel), 58 system, 40 rollback, 25006 a server in recovery, 25P03 a transaction that was left idle for too long, which a
/// process does that stands still.
fn may_pass_by_itself(state: &SqlState) -> bool {
    let states = [SqlState::READ_ONLY_SQL_TRANSACTION, SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT];
    matches!(&state.code()[..2], "08" | "53" | "57" | "58" | "40") || states.contains(state)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_ends_for_reasons_of_its_own_may_pass_and_what_it_refuses_does_not() {
        for code in ["08006", "53300", "57P01", "58030", "40001", "25006", "25P03"] {
            assert!(may_pass_by_itself(&SqlState::from_code(code)), "{code}");
        }
        for code in ["23505", "22P02", "42501", "25P02"] {
            assert!(!may_pass_by_itself(&SqlState::from_code(code)), "{code}");
        }
    }
}
