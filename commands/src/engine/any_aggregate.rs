//! An aggregate whose type is known at run time only: what the registry of aggregates holds.

use access::Rejection;
use bytes::Bytes;
use futures::future::BoxFuture;
use schemas::engine::{CommandType, Commands, Event, Input, InputError, InputReader, StreamName};
use store::{Secret, StoreError};
use uuid::Uuid;

use super::context::{CommandContext, CommandSideEffects};
use super::decider::{Decider, ReservedKind};
use super::executor::Executor;
use super::outcome::{AnyRejection, CommandResult, ExecuteError};
use crate::any_command::{AnyCommand, Dispatched};

/// A command on its way.
pub type Executed<'a> = BoxFuture<'a, Result<Dispatched, ExecuteError<AnyRejection>>>;
/// Executes a command of one name: a use case with more checks than the rules of one aggregate.
pub type UseCase = for<'a> fn(&'a Executor, &'a CommandContext, AnyCommand) -> Executed<'a>;
type Erased<'a> = BoxFuture<'a, Result<Option<u64>, StoreError>>;

/// One kind of aggregate.
#[derive(Clone, Copy)]
pub struct AnyAggregate {
    /// `<context>.<aggregate>`, the category of its streams.
    pub category: &'static str,
    /// Its commands.
    pub commands: &'static [CommandType],
    /// The kinds of values that it reserves.
    pub reserved_kinds: &'static [ReservedKind],
    read: fn(&str, Uuid, &Input) -> Result<AnyCommand, Vec<InputError>>,
    execute: UseCase,
    use_cases: &'static [(&'static str, UseCase)],
    erase: Option<for<'a> fn(&'a Executor, &'a CommandContext, Uuid) -> Erased<'a>>,
}

impl AnyAggregate {
    /// The aggregate `A`. It does not compile if `A` has personal data and no command that erases them.
    #[track_caller] // The compiler reports the error at the entry of the registry.
    pub const fn of<A: Decider>() -> Self {
        assert!(
            !<A::Event as Event>::HAS_PERSONAL_DATA || A::ERASE.is_some(),
            "an aggregate with personal data needs `Decider::ERASE`"
        );
        Self {
            category: A::CATEGORY,
            commands: <A::Command as Commands>::TYPES,
            reserved_kinds: A::RESERVED_KINDS,
            read: read::<A>,
            execute: |executor, context, command| Box::pin(execute::<A>(executor, context, command)),
            use_cases: &[],
            erase: if A::ERASE.is_some() {
                Some(|executor, context, id| Box::pin(erase::<A>(executor, context, id)))
            } else {
                None
            },
        }
    }

    /// The same aggregate, with use cases for some of its commands.
    #[must_use]
    pub const fn with_use_cases(self, use_cases: &'static [(&'static str, UseCase)]) -> Self {
        Self { use_cases, ..self }
    }

    /// Reads the command with this name from what a client sent.
    ///
    /// # Errors
    /// Every error in the input.
    pub fn read(&self, name: &str, id: Uuid, input: &Input) -> Result<AnyCommand, Vec<InputError>> {
        (self.read)(name, id, input)
    }

    /// Executes one of its commands.
    ///
    /// # Errors
    /// [`ExecuteError`]; after [`ExecuteError::Unavailable`] a repeat with the same command id is safe.
    pub async fn execute(
        &self,
        executor: &Executor,
        context: &CommandContext,
        command: AnyCommand,
    ) -> Result<Dispatched, ExecuteError<AnyRejection>> {
        let use_case = self.use_cases.iter().find(|(name, _)| *name == command.name());
        use_case.map_or(self.execute, |(_, use_case)| *use_case)(executor, context, command).await
    }

    /// Erases the subject in the aggregate `id`, and what the store holds for it outside the log: reservations and
    /// secrets. Returns the position after which it is erased; `None` if there is nothing to erase.
    /// A repeat under the same context changes nothing.
    ///
    /// # Errors
    /// The store failed, or the rules rejected the erasure.
    pub async fn erase(
        &self,
        executor: &Executor,
        context: &CommandContext,
        id: Uuid,
    ) -> Result<Option<u64>, StoreError> {
        match self.erase {
            Some(erase) => erase(executor, context, id).await,
            None => Ok(None),
        }
    }
}

fn read<A: Decider>(name: &str, id: Uuid, input: &Input) -> Result<AnyCommand, Vec<InputError>> {
    let mut reader = InputReader::default();
    match A::Command::read(name, &mut reader, input) {
        Some(command) if reader.errors.is_empty() => Ok(AnyCommand::new(id, &command)),
        _ => Err(reader.errors),
    }
}

async fn execute<A: Decider>(
    executor: &Executor,
    context: &CommandContext,
    command: AnyCommand,
) -> Result<Dispatched, ExecuteError<AnyRejection>> {
    let typed = command.typed::<A::Command>().ok_or_else(|| undecodable(&command))?;
    executor.dispatch::<A>(context, command.id(), typed).await.map_err(ExecuteError::erase_type)
}

/// A newer version of the program may have recorded the command, so it is tried again later.
pub(crate) fn undecodable(command: &AnyCommand) -> ExecuteError<AnyRejection> {
    let cause = format!("this version of the program does not read the command {}", command.name());
    ExecuteError::internal("reading a command", cause)
}

impl<A> From<CommandResult<A>> for Dispatched {
    fn from(executed: CommandResult<A>) -> Self {
        let CommandResult { outcome, command_id, id, version, position, log_id, consistency_token, .. } =
            executed;
        Self { outcome, command_id, id, version, position, log_id, consistency_token, recorded: None }
    }
}

async fn erase<A: Decider>(
    executor: &Executor,
    context: &CommandContext,
    id: Uuid,
) -> Result<Option<u64>, StoreError> {
    let Some(command) = A::ERASE else { return Ok(None) };
    let tenant = executor.store().tenant(context.tenant);
    let stream = StreamName::new(A::CATEGORY, id);
    let mut digest_releases = Vec::new();
    for kind in A::RESERVED_KINDS {
        digest_releases.extend(tenant.reservations_of(&stream, kind.name).await?);
    }
    let side_effects = CommandSideEffects {
        // Secrets are overwritten, because they are never deleted. No password matches an empty hash.
        secrets: A::SECRET_KINDS.iter().map(|kind| Secret { kind, value: Bytes::new() }).collect(),
        digest_releases,
        ..CommandSideEffects::default()
    };
    match executor.execute::<A>(context, id, command(), side_effects).await {
        Ok(executed) => Ok(Some(executed.position)),
        // The stream was registered for an append that never happened.
        Err(ExecuteError::NotFound) => Ok(None),
        Err(ExecuteError::Rejected(rejection)) => Err(StoreError::Corrupt(format!(
            "a stream does not forget its subject: {}",
            rejection.code().as_str()
        ))),
        Err(ExecuteError::Unavailable(error)) => Err(error),
        Err(ExecuteError::TenantUnknown) => Err(StoreError::TenantUnknown),
        Err(error) => Err(StoreError::Unavailable(error.to_string())),
    }
}
