//! Errors of the keyring.

use uuid::Uuid;

/// An error of the keyring.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The subject is erased or about to be, so nothing is encrypted for it any more.
    #[error("the subject was erased")]
    SubjectErased,
    /// A segment is sealed with a key that is neither stored nor destroyed: the key store lost it.
    /// An operator must restore the key store. Until then the subject does not count as erased.
    #[error(
        "the key {key} of the subject {subject} is missing, and it was not destroyed: restore the store of keys"
    )]
    KeyMissing {
        /// The subject of the key.
        subject: Uuid,
        /// The id of the key.
        key: Uuid,
    },
    /// A queue is full; a retry may help.
    #[error("too many requests are waiting for keys")]
    Overloaded,
    /// The key store cannot be used; a retry may help.
    #[error("keys are unavailable: {0}")]
    Unavailable(String),
    /// The key database cannot be reached, or failed to execute a statement. The source has the server's message.
    #[error("the database of keys is unavailable")]
    Database(#[source] database::ConnectError),
    /// A setting is invalid.
    #[error("{0}")]
    Config(String),
    /// The payload is not JSON, or names no subject.
    #[error("the payload cannot be sealed: {0}")]
    Invalid(String),
}

impl KeyringError {
    /// Creates the error, and counts it in a metric.
    pub(crate) fn key_missing(subject: Uuid, key: Uuid) -> Self {
        metrics::counter!("annals_keys_missing_total").increment(1);
        Self::KeyMissing { subject, key }
    }
}

impl From<rusqlite::Error> for KeyringError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<tokio_postgres::Error> for KeyringError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<database::ConnectError> for KeyringError {
    fn from(error: database::ConnectError) -> Self {
        match error {
            database::ConnectError::Tls(error) => Self::Config(error.to_string()),
            error => Self::Database(error),
        }
    }
}
