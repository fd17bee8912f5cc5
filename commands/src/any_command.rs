//! A command of any aggregate as data. A saga records it first and sends it later.

use access::ErrorCode;
use schemas::crm::customer::{CloseCustomer, RegisterCustomer, RenameCustomer, SuspendCustomer};
use schemas::engine::LogId;
use schemas::identity::user::{ChangeUserName, ConfirmUserEmail, DeactivateUser};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::context::{CommandContext, CommandSideEffects};
use crate::engine::decider::{Decider, Rejection};
use crate::engine::executor::Executor;
use crate::engine::outcome::{CommandResult, ExecuteError, ExecutionOutcome};
use crate::{Customer, User};

/// A command with the aggregate that it is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name")]
#[expect(missing_docs, reason = "each variant is a command's name, its target and the command itself")]
pub enum AnyCommand {
    RegisterCustomer { id: Uuid, command: RegisterCustomer },
    RenameCustomer { id: Uuid, command: RenameCustomer },
    SuspendCustomer { id: Uuid, command: SuspendCustomer },
    CloseCustomer { id: Uuid, command: CloseCustomer },
    ConfirmUserEmail { id: Uuid, command: ConfirmUserEmail },
    ChangeUserName { id: Uuid, command: ChangeUserName },
    DeactivateUser { id: Uuid, command: DeactivateUser },
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
    },
    /// A retry may succeed.
    #[error("the command could not be executed now")]
    Retryable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Executes the command.
///
/// # Errors
/// [`DispatchError`] says whether a retry may succeed.
pub async fn dispatch(
    executor: &Executor,
    context: &CommandContext,
    command: AnyCommand,
) -> Result<Dispatched, DispatchError> {
    match command {
        AnyCommand::RegisterCustomer { id, command } => run::<Customer>(executor, context, id, command).await,
        AnyCommand::RenameCustomer { id, command } => run::<Customer>(executor, context, id, command).await,
        AnyCommand::SuspendCustomer { id, command } => run::<Customer>(executor, context, id, command).await,
        AnyCommand::CloseCustomer { id, command } => run::<Customer>(executor, context, id, command).await,
        AnyCommand::ConfirmUserEmail { id, command } => run::<User>(executor, context, id, command).await,
        AnyCommand::ChangeUserName { id, command } => run::<User>(executor, context, id, command).await,
        AnyCommand::DeactivateUser { id, command } => run::<User>(executor, context, id, command).await,
    }
}

async fn run<A: Decider>(
    executor: &Executor,
    context: &CommandContext,
    id: Uuid,
    command: impl Into<A::Command> + Send,
) -> Result<Dispatched, DispatchError> {
    let executed: CommandResult<A> =
        executor.execute(context, id, command, CommandSideEffects::default()).await?;
    let CommandResult { outcome, command_id, id, version, position, log_id, .. } = executed;
    Ok(Dispatched { outcome, command_id, id, version, position, log_id })
}

impl<R: Rejection> From<ExecuteError<R>> for DispatchError {
    fn from(error: ExecuteError<R>) -> Self {
        match &error {
            ExecuteError::VersionConflict { .. }
            | ExecuteError::Overloaded
            | ExecuteError::Unavailable(_)
            | ExecuteError::Internal { .. } => Self::Retryable(Box::new(error)),
            error => Self::Rejected { code: error.code(), message: error.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CustomerRejection;

    #[test]
    fn a_command_survives_being_written_down() {
        let command =
            AnyCommand::CloseCustomer { id: Uuid::from_u128(1), command: CloseCustomer { reason: None } };
        let text = serde_json::to_string(&command).expect("serialises");
        assert_eq!(serde_json::from_str::<AnyCommand>(&text).expect("deserialises"), command);
        assert!(text.contains(r#""name":"CloseCustomer""#));
    }

    #[test]
    fn a_refusal_keeps_its_code_and_an_outage_is_retryable() {
        let refused = DispatchError::from(ExecuteError::Rejected(CustomerRejection::Closed));
        assert!(matches!(refused, DispatchError::Rejected { code: ErrorCode::CustomerClosed, .. }));
        let busy = DispatchError::from(ExecuteError::<CustomerRejection>::Overloaded);
        assert!(matches!(busy, DispatchError::Retryable(_)));
    }
}
