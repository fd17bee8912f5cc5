//! Errors of the store.
//!
//! `Display` never shows messages of PostgreSQL, because error messages reach clients and dead letters.
//! They are in the sources of an error; logs show the sources with [`Causes`](crate::Causes).

use std::fmt;

use database::{ConnectError, PoolError, ReadError};
use keyring::KeyringError;
use schemas::engine::{InvalidValue, LogId};
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::Invariant;

/// An error of the store. Rejections of an append are [`AppendError`](crate::AppendError)s.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot do it now, for a reason of its own; a retry may help.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// PostgreSQL closed the connection, or could not execute a statement for a reason of its own; a retry may help.
    #[error("the database is unavailable")]
    Interrupted(#[source] tokio_postgres::Error),
    /// A read in one round trip failed. A retry helps if [`ReadError::is_transient`] says so.
    #[error("{}", if .0.is_transient() { "the database is unavailable" } else { "a read of the database failed" })]
    Read(#[source] ReadError),
    /// No connection to PostgreSQL; a retry may help.
    #[error("the database is unavailable")]
    NotConnected(#[source] ConnectError),
    /// A queue is full; a retry may help.
    #[error("too many requests are waiting for the database")]
    Overloaded,
    /// The tenant does not exist.
    #[error("the tenant is unknown")]
    TenantUnknown,
    /// The position belongs to a replaced log.
    #[error("the log was replaced; the tenant's log is now {current}")]
    LogReplaced {
        /// The current log of the tenant.
        current: LogId,
    },
    /// A segment is sealed with a key that is neither stored nor destroyed. This is not an erasure.
    /// An operator must restore the key store; until then the subject cannot be read.
    #[error(
        "the key {key} of the subject {subject} is missing, and it was not destroyed: restore the store of keys"
    )]
    KeyMissing {
        /// The subject of the key.
        subject: Uuid,
        /// The id of the key.
        key: Uuid,
    },
    /// The key store cannot be used; a retry may help.
    #[error("the keys of personal data are unavailable")]
    Keys(#[source] KeyringError),
    /// Stored data break a rule that always holds. The work of the tenant stops; a retry does not help.
    /// The violation is already reported.
    #[error("the invariant {invariant} does not hold at position {position}")]
    InvariantViolated {
        /// The broken rule.
        invariant: Invariant,
        /// The position in the tenant's log.
        position: u64,
    },
    /// A stored row is invalid.
    #[error("stored data does not read: {0}")]
    Corrupt(String),
    /// PostgreSQL rejected a statement.
    #[error("the database refused a statement")]
    Database(#[source] tokio_postgres::Error),
    /// A setting is invalid.
    #[error("{0}")]
    Config(String),
    /// The TLS settings are invalid.
    #[error("the TLS settings of the database cannot be used")]
    Tls(#[source] database::TlsError),
    /// The migration of the schema failed. The text is PostgreSQL's, for operators.
    #[error("migration failed: {0}")]
    Migration(String),
}

impl StoreError {
    /// Whether a retry may help.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unavailable(_)
            | Self::Interrupted(_)
            | Self::NotConnected(_)
            | Self::Overloaded
            | Self::Keys(_)
            | Self::KeyMissing { .. } => true,
            Self::Read(error) => error.is_transient(),
            _ => false,
        }
    }

    /// Whether stored data break a rule that always holds.
    pub fn is_violation(&self) -> bool {
        matches!(self, Self::InvariantViolated { .. })
    }

    /// Whether a parameter of a client was invalid: a text with NUL, or a time or number outside PostgreSQL's range.
    pub fn is_invalid_parameter(&self) -> bool {
        let code = match self {
            Self::Database(error) => error.code(),
            Self::Read(error) => error.state(),
            _ => None,
        };
        code.is_some_and(|code| {
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

    /// A stored value that cannot be read. `what` names it.
    pub fn corrupt(what: &str, cause: impl fmt::Display) -> Self {
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

impl From<ReadError> for StoreError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Exhausted => Self::Overloaded,
            error => Self::Read(error),
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
