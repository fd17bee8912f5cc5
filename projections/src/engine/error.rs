//! Why an event cannot be applied, or why a batch cannot be written.

use schemas::engine::DecodeError;
use store::StoreError;

/// Why an event cannot be applied, or why a batch cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// The payload cannot be parsed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// This version of the program does not know the event's type. A newer one does.
    #[error("the type {0} is unknown to this version of the program")]
    UnknownType(String),
    /// The event is not possible in the state before it.
    #[error("{event_type} cannot apply: {reason}")]
    OutOfSequence {
        /// The event's type.
        event_type: String,
        /// The reason.
        reason: &'static str,
    },
    /// A row cannot be converted from or to its table.
    #[error("a row does not fit its table")]
    Row(#[source] serde_json::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ProjectionError {
    /// Whether the event is the cause and not the database. A retry would then fail again.
    pub fn is_poison(&self) -> bool {
        match self {
            Self::Decode(_) | Self::UnknownType(_) | Self::OutOfSequence { .. } | Self::Row(_) => true,
            // Classes 22 (data exception) and 23 (integrity constraint): PostgreSQL rejects the value, but works.
            Self::Store(StoreError::Database(error)) => {
                error.code().is_some_and(|state| matches!(&state.code()[..2], "22" | "23"))
            }
            Self::Store(_) => false,
        }
    }

    /// A stable code in screaming snake case, for dead letters.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Decode(_) => "PAYLOAD_INVALID",
            Self::UnknownType(_) => "EVENT_TYPE_UNKNOWN",
            Self::OutOfSequence { .. } => "EVENT_OUT_OF_SEQUENCE",
            Self::Row(_) => "ROW_INVALID",
            Self::Store(StoreError::Database(_)) => "CONSTRAINT_VIOLATION",
            Self::Store(_) => "STORE_FAILED",
        }
    }

    /// A message for operators. It contains no value of the payload, only the place of the error.
    pub fn describe(&self) -> String {
        match self {
            Self::Decode(DecodeError { source: cause, .. }) | Self::Row(cause) => {
                format!(
                    "{self} ({:?} error at line {}, column {})",
                    cause.classify(),
                    cause.line(),
                    cause.column()
                )
            }
            Self::Store(StoreError::Database(error)) => {
                let state = error.code().map_or("unknown", |state| state.code());
                format!("the row is refused by the database (SQLSTATE {state})")
            }
            other => other.to_string(),
        }
    }
}

impl From<ProjectionError> for StoreError {
    fn from(error: ProjectionError) -> Self {
        match error {
            ProjectionError::Store(error) => error,
            other => Self::Corrupt(other.describe()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_shows_nothing_of_the_payload() {
        let cause = serde_json::from_str::<u64>(r#""ada@example.com""#).expect_err("no number");
        assert!(cause.to_string().contains("ada@example.com"), "serde itself would tell");
        let error = ProjectionError::Decode(DecodeError { event_type: "a.b.c.v1".to_owned(), source: cause });
        assert_eq!(error.describe(), "payload of a.b.c.v1 does not decode (Data error at line 1, column 17)");
        assert!(error.is_poison());
    }

    #[test]
    fn an_outage_is_no_poison() {
        assert!(!ProjectionError::Store(StoreError::Unavailable("gone".to_owned())).is_poison());
        assert!(!ProjectionError::Store(StoreError::Overloaded).is_poison());
    }
}
