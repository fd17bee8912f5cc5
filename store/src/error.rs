//! What can go wrong between the product and PostgreSQL.
//!
//! What PostgreSQL says stays in the sources of an error: `Display` never shows it, because messages of errors reach clients
//! and dead letters. Logs show the sources by [`Causes`](crate::Causes).

use std::fmt;

use database::{ConnectError, PoolError};
use keyring::KeyringError;
use schemas::engine::{InvalidValue, LogId};
use tokio_postgres::error::SqlState;
use uuid::Uuid;

/// An error of the store. Domain refusals of an append are [`AppendError`](crate::AppendError)s.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot do it at the moment, for a reason of the product's own; trying again later may help.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// PostgreSQL broke the connection off, or could not execute a statement for a reason of its own; trying again later may
    /// help.
    #[error("the database is unavailable")]
    Interrupted(#[source] tokio_postgres::Error),
    /// PostgreSQL cannot be connected to; trying again later may help.
    #[error("the database is unavailable")]
    NotConnected(#[source] ConnectError),
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
    /// The TLS settings cannot be used.
    #[error("the TLS settings of the database cannot be used")]
    Tls(#[source] database::TlsError),
    /// The schema could not be brought up to date. For operators: the text is that of PostgreSQL.
    #[error("migration failed: {0}")]
    Migration(String),
}

impl StoreError {
    /// Whether trying again later may help.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_)
                | Self::Interrupted(_)
                | Self::NotConnected(_)
                | Self::Overloaded
                | Self::Keys(_)
                | Self::KeyMissing { .. }
        )
    }

    /// Whether a parameter was at fault: a text with a NUL, or a time or number that PostgreSQL cannot hold. Such values come
    /// from outside.
    pub fn is_invalid_parameter(&self) -> bool {
        let Self::Database(error) = self else { return false };
        error.code().is_some_and(|code| {
            [
                SqlState::CHARACTER_NOT_IN_REPERTOIRE,
                SqlState::UNTRANSLATABLE_CHARACTER,
                SqlState::DATETIME_FIELD_OVERFLOW,
                SqlState::INVALID_DATETIME_FORMAT,
                SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
            ]
            .contains(code)
        })
    }

    pub(crate) fn corrupt(what: &str, cause: impl fmt::Display) -> Self {
        Self::Corrupt(format!("{what}: {cause}"))
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        if database::is_transient(&error) { Self::Interrupted(error) } else { Self::Database(error) }
    }
}

impl From<ConnectError> for StoreError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Tls(error) => Self::Tls(error),
            ConnectError::Postgres(error) if !database::is_transient(&error) => Self::Database(error),
            error => Self::NotConnected(error),
        }
    }
}

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Exhausted => Self::Overloaded,
            PoolError::Connect(error) => error.into(),
        }
    }
}

impl From<InvalidValue> for StoreError {
    fn from(error: InvalidValue) -> Self {
        Self::Corrupt(error.to_string())
    }
}
