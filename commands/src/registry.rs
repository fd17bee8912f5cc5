//! The registry of aggregates. Dispatch of stored commands, erasure, GraphQL and the checks of names follow from it.

use access::ErrorCode;
use schemas::engine::Registry;
use schemas::identity::user::UserCommand;

use crate::engine::any_aggregate::{AnyAggregate, Executed, undecodable};
use crate::identity::administration::deactivate;
use crate::{
    AnyCommand, CommandContext, Customer, DispatchError, Dispatched, EventFamily, ExecuteError, Executor,
    ServiceToken, Subject, Tenant, User,
};

/// Every aggregate of the product.
pub static AGGREGATES: Registry<AnyAggregate> = Registry::of(&[
    AnyAggregate::of::<Customer>(),
    AnyAggregate::of::<User>().with_use_cases(&[
        ("DeactivateUser", deactivate_user),
        ("RegisterUser", typed_only),
        ("ChangeUserRoles", typed_only),
    ]),
    AnyAggregate::of::<Tenant>().with_use_cases(&[
        ("RegisterTenant", typed_only),
        ("SuspendTenant", typed_only),
        ("ResumeTenant", typed_only),
    ]),
    AnyAggregate::of::<EventFamily>().with_use_cases(&[("RegisterEventType", typed_only)]),
    AnyAggregate::of::<ServiceToken>(),
    AnyAggregate::of::<Subject>(),
]);

/// The aggregate that has the command with this name.
pub fn of_command(name: &str) -> Option<&'static AnyAggregate> {
    AGGREGATES.iter().find(|aggregate| aggregate.commands.iter().any(|command| command.name == name))
}

/// The aggregate whose streams have this category.
pub fn of_category(category: &str) -> Option<&'static AnyAggregate> {
    AGGREGATES.iter().find(|aggregate| aggregate.category == category)
}

/// The error code for a reserved value of this kind.
pub fn reserved_value_code(kind: &str) -> ErrorCode {
    let mut kinds = AGGREGATES.iter().flat_map(|aggregate| aggregate.reserved_kinds);
    kinds.find(|known| known.name == kind).map_or(ErrorCode::ValueTaken, |known| known.taken)
}

/// This version of the program does not know the command. A newer one may have recorded it.
#[derive(Debug, thiserror::Error)]
#[error("the command {0} is unknown to this version of the program")]
struct UnknownCommand(String);

/// Executes the command.
///
/// # Errors
/// [`DispatchError`] says whether a retry may succeed.
pub async fn dispatch(
    executor: &Executor,
    context: &CommandContext,
    command: AnyCommand,
) -> Result<Dispatched, DispatchError> {
    match of_command(command.name()) {
        Some(aggregate) => Ok(aggregate.execute(executor, context, command).await?),
        None => Err(DispatchError::Retryable(Box::new(UnknownCommand(command.name().to_owned())))),
    }
}

fn deactivate_user<'a>(
    executor: &'a Executor,
    context: &'a CommandContext,
    command: AnyCommand,
) -> Executed<'a> {
    Box::pin(async move {
        let Some(UserCommand::DeactivateUser { reason }) = command.typed() else {
            return Err(undecodable(&command));
        };
        let executed = deactivate(executor, context, command.id(), reason).await;
        executed.map(Dispatched::from).map_err(ExecuteError::erase_type)
    })
}

/// The use case of a command that only typed code may execute, because it needs more than the command: a password, a row of
/// the directory, or the turn of an administrator.
fn typed_only<'a>(
    _executor: &'a Executor,
    _context: &'a CommandContext,
    command: AnyCommand,
) -> Executed<'a> {
    let cause = format!("{} is not executed as data", command.name());
    Box::pin(async move { Err(ExecuteError::internal("dispatching a command", cause)) })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_of_categories_commands_and_reservations_are_unique() {
        let mut names = HashSet::new();
        for aggregate in AGGREGATES.iter() {
            assert!(names.insert(aggregate.category), "{}", aggregate.category);
            for command in aggregate.commands {
                assert!(names.insert(command.name), "{}", command.name);
            }
            for kind in aggregate.reserved_kinds {
                assert!(names.insert(kind.name), "{}", kind.name);
            }
        }
    }

    #[test]
    fn each_command_has_a_permission() {
        for command in AGGREGATES.iter().flat_map(|aggregate| aggregate.commands) {
            assert!(
                access::policy::COMMANDS.iter().any(|permission| permission.name == command.name),
                "{} is missing in access/src/policy.rs",
                command.name
            );
        }
    }
}
