//! A command of any aggregate as data. A saga records it first and sends it later.

use access::{ErrorCode, Rejection};
use schemas::engine::{Commands, LogId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::engine::outcome::{ExecuteError, ExecutionOutcome, RecordedNow};

/// A command with the id of its aggregate. Only typed commands are converted to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnyCommand {
    name: String,
    id: Uuid,
    command: Value,
}

impl AnyCommand {
    /// The command for the aggregate `id`.
    pub fn new(id: Uuid, command: &impl Commands) -> Self {
        let mut whole = serde_json::to_value(command).expect("a command serialises");
        Self { name: command.command_type().name.to_owned(), id, command: whole["command"].take() }
    }

    /// The name of the command, such as `RegisterCustomer`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of the aggregate.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The typed command. `None` if it is not one of `C`, or has a field that `C` does not know.
    pub fn typed<C: Commands>(&self) -> Option<C> {
        let whole = serde_json::json!({"name": self.name, "command": self.command});
        let typed: C = serde_json::from_value(whole).ok()?;
        covers(&Self::new(self.id, &typed).command, &self.command).then_some(typed)
    }
}

/// Whether a document has every member of another one that is not null.
fn covers(known: &Value, stored: &Value) -> bool {
    match (known, stored) {
        (Value::Object(known), Value::Object(stored)) => stored.iter().all(|(name, value)| {
            value.is_null() || known.get(name).is_some_and(|known| covers(known, value))
        }),
        (Value::Array(known), Value::Array(stored)) => {
            known.len() == stored.len()
                && known.iter().zip(stored).all(|(known, stored)| covers(known, stored))
        }
        _ => true,
    }
}

/// Result of a dispatched command.
#[derive(Debug, Clone, PartialEq)]
pub struct Dispatched {
    /// Whether it was executed now or earlier.
    pub outcome: ExecutionOutcome,
    /// The command id.
    pub command_id: Uuid,
    /// The id of the aggregate.
    pub id: Uuid,
    /// The version after the command.
    pub version: u64,
    /// The position of the command's last event; the log's head if it had no effect.
    pub position: u64,
    /// The log of the position.
    pub log_id: LogId,
    /// A read with this token sees the command's effect.
    pub consistency_token: String,
    /// The events that the command recorded now, with readable personal data, and when. None for a repeat, and for a
    /// command without effect.
    pub recorded: Option<RecordedNow>,
}

/// Why a dispatched command failed.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// A retry would be rejected again unless something else changes.
    #[error("{message} ({})", code.as_str())]
    Rejected {
        /// The error code.
        code: ErrorCode,
        /// A message for people.
        message: String,
        /// The path to the field at fault, if one field is.
        path: Option<String>,
    },
    /// A retry may succeed.
    #[error("the command could not be executed now")]
    Retryable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl<R: Rejection> From<ExecuteError<R>> for DispatchError {
    fn from(error: ExecuteError<R>) -> Self {
        match &error {
            ExecuteError::VersionConflict { .. }
            | ExecuteError::Overloaded
            | ExecuteError::Unavailable(_)
            | ExecuteError::Internal { .. } => Self::Retryable(Box::new(error)),
            error => Self::Rejected { code: error.code(), message: error.to_string(), path: error.path() },
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::crm::customer::CustomerCommand;

    use super::*;
    use crate::CustomerRejection;

    #[test]
    fn a_command_survives_being_written_down() {
        let close = CustomerCommand::CloseCustomer { reason: None };
        let command = AnyCommand::new(Uuid::from_u128(1), &close);
        let text = serde_json::to_string(&command).expect("serialises");
        assert_eq!(serde_json::from_str::<AnyCommand>(&text).expect("deserialises"), command);
        assert!(text.contains(r#""name":"CloseCustomer""#));
        assert_eq!(command.typed::<CustomerCommand>(), Some(close));
    }

    #[test]
    fn a_command_that_an_older_version_wrote_down_is_read() {
        let text = r#"{"name":"RegisterCustomer","id":"00000000-0000-0000-0000-000000000001",
            "command":{"user_id":null,"name":"Ada","email":"ada@example.com","company":null,"notes":null}}"#;
        let command: AnyCommand = serde_json::from_str(text).expect("deserialises");
        let typed = command.typed::<CustomerCommand>().expect("is known");
        assert!(matches!(typed, CustomerCommand::RegisterCustomer { user_id: None, .. }));
    }

    #[test]
    fn a_refusal_keeps_its_code_and_an_outage_is_retryable() {
        let refused = DispatchError::from(ExecuteError::Rejected(CustomerRejection::Closed));
        assert!(matches!(refused, DispatchError::Rejected { code: ErrorCode::CustomerClosed, .. }));
        let busy = DispatchError::from(ExecuteError::<CustomerRejection>::Overloaded);
        assert!(matches!(busy, DispatchError::Retryable(_)));
    }
}
