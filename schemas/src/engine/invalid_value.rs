//! Why a value is invalid.

/// Why a value is invalid: a stable code, and a message for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidValue {
    /// A stable code in snake case.
    pub code: &'static str,
    /// A message for people, in lower case, without a full stop.
    pub message: String,
}

impl InvalidValue {
    /// Creates an error.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}
