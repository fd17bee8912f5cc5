//! What can go wrong with keys.

/// An error of the keyring.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The subject was erased, or is being erased: nothing is sealed for it any more.
    #[error("the subject was erased")]
    SubjectErased,
    /// Too much is waiting already; trying again later may help.
    #[error("too many requests are waiting for keys")]
    Overloaded,
    /// The file of keys cannot be used; trying again later may help.
    #[error("keys are unavailable: {0}")]
    Unavailable(String),
    /// A setting is wrong.
    #[error("{0}")]
    Config(String),
    /// What is to be sealed is no JSON, or says nothing of its subject.
    #[error("the payload cannot be sealed: {0}")]
    Invalid(String),
}

impl From<rusqlite::Error> for KeyringError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}
