//! The registry of aggregates. Dispatch of stored commands, erasure, GraphQL and the checks of names follow from it.

use schemas::identity::user::UserCommand;

use crate::engine::any_aggregate::{AnyAggregate, Executed};
use crate::identity::administration::deactivate;
use crate::{
    AnyCommand, CommandContext, Customer, Dispatched, EventFamily, ExecuteError, Executor, ServiceToken,
    Subject, Tenant, User,
};

/// Every aggregate of the product.
///
/// It is a `static`, because a constant would be instantiated in every crate that names it.
pub static AGGREGATES: &[AnyAggregate] = &[
    AnyAggregate::of::<Customer>(),
    AnyAggregate::of::<User>().with_use_cases(&[("DeactivateUser", deactivate_user)]),
    AnyAggregate::of::<Tenant>(),
    AnyAggregate::of::<EventFamily>(),
    AnyAggregate::of::<ServiceToken>(),
    AnyAggregate::of::<Subject>(),
];

fn deactivate_user<'a>(
    executor: &'a Executor,
    context: &'a CommandContext,
    command: AnyCommand,
) -> Executed<'a> {
    Box::pin(async move {
        let Some(UserCommand::DeactivateUser { reason }) = command.typed() else {
            return Err(ExecuteError::Invalid("the command is no DeactivateUser".to_owned()));
        };
        let executed = deactivate(executor, context, command.id(), reason).await;
        executed.map(Dispatched::from).map_err(ExecuteError::erase_type)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_of_categories_commands_and_reservations_are_unique() {
        let mut names = HashSet::new();
        for aggregate in AGGREGATES {
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
