//! What can go wrong with keys.

use uuid::Uuid;

/// An error of the keyring.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The subject was erased, or is being erased: nothing is sealed for it any more.
    #[error("the subject was erased")]
    SubjectErased,
    /// Something is sealed under a key that the store neither has nor has destroyed: the store was lost, or went back to an
    /// earlier state. An operator has to restore it; nothing is taken for erased meanwhile.
    #[error(
        "the key {key} of the subject {subject} is missing, and it was not destroyed: restore the store of keys"
    )]
    KeyMissing {
        /// Whose key it is.
        subject: Uuid,
        /// The key's id.
        key: Uuid,
    },
    /// Too much is waiting already; trying again later may help.
    #[error("too many requests are waiting for keys")]
    Overloaded,
    /// The store of keys cannot be used; trying again later may help.
    #[error("keys are unavailable: {0}")]
    Unavailable(String),
    /// The database of keys cannot be connected to, or did not execute a statement. What the server says stays in the source.
    #[error("the database of keys is unavailable")]
    Database(#[source] database::ConnectError),
    /// A setting is wrong.
    #[error("{0}")]
    Config(String),
    /// What is to be sealed is no JSON, or says nothing of its subject.
    #[error("the payload cannot be sealed: {0}")]
    Invalid(String),
}

impl KeyringError {
    /// The error of a missing key, which also counts it.
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
