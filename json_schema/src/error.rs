//! Why a schema is rejected.

use super::limits::MESSAGE_CHARS_MAX;

/// Why a schema is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidSchema {
    /// The path to the keyword, separated by dots; empty for the whole schema.
    pub at: String,
    /// A message for people.
    pub message: String,
}

pub(super) fn invalid(at: &str, message: impl Into<String>) -> InvalidSchema {
    let message: String = message.into();
    InvalidSchema { at: at.to_owned(), message: message.chars().take(MESSAGE_CHARS_MAX).collect() }
}

pub(super) fn path(at: &str, name: &str) -> String {
    let name: String = name.chars().take(64).collect();
    if at.is_empty() { name } else { format!("{at}.{name}") }
}
