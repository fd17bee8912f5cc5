//! From a mutation's input to a command, and from its outcome to a payload. Domain refusals are data (`userErrors`);
//! only what is no answer to the command (not allowed, unavailable, a fault of ours) is a top-level error.

use access::ErrorCode;
use async_graphql::{Context, Enum, Error, ID, SimpleObject};
use commands::{
    CommandContext, CommandResult, CommandSideEffects, Decider, ExecuteError, ExecutionOutcome, Executor,
    Rejection,
};
use schemas::engine::{InvalidValue, ids};
use uuid::Uuid;

use super::errors::{GraphqlError, internal};
use super::scalars::Int64;
use crate::auth::Caller;
use crate::http::RequestContext;
use crate::http::failures::Cause;

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
pub enum CommandOutcome {
    /// It took effect, or there was nothing to change.
    Applied,
    /// It was refused and changed nothing: see `userErrors`.
    Rejected,
    /// The same `commandId` did this before; the payload is that of the first time.
    Duplicate,
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, SimpleObject)]
pub struct UserError {
    /// Stable, for programs.
    code: String,
    /// For people.
    message: String,
    /// The field of the input at fault, where one is.
    path: Option<Vec<String>>,
    #[graphql(skip)]
    catalogued: ErrorCode,
}

impl UserError {
    fn new(code: ErrorCode, message: impl Into<String>, field: Option<&str>) -> Self {
        Self {
            code: code.graphql(),
            message: message.into(),
            path: field.map(|field| vec![field.to_owned()]),
            catalogued: code,
        }
    }
}

/// What every payload says, whatever the command.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the payloads in the schema")]
pub struct Answer {
    pub outcome: CommandOutcome,
    pub command_id: Uuid,
    pub user_errors: Vec<UserError>,
    /// The aggregate and its version, where the command was accepted.
    pub target: Option<(Uuid, u64)>,
    pub position: Option<Int64>,
    pub consistency_token: Option<String>,
}

impl Answer {
    /// The version behind the command.
    pub fn version(&self) -> Option<Int64> {
        self.target.map(|(_, version)| Int64(version))
    }

    fn rejected(command_id: Uuid, user_errors: Vec<UserError>) -> Self {
        Self {
            outcome: CommandOutcome::Rejected,
            command_id,
            user_errors,
            target: None,
            position: None,
            consistency_token: None,
        }
    }

    fn accepted<A>(executed: &CommandResult<A>) -> Self {
        Self {
            outcome: match executed.outcome {
                ExecutionOutcome::Applied => CommandOutcome::Applied,
                ExecutionOutcome::Duplicate => CommandOutcome::Duplicate,
            },
            command_id: executed.command_id,
            user_errors: Vec::new(),
            target: Some((executed.id, executed.version)),
            position: Some(Int64(executed.position)),
            consistency_token: Some(executed.consistency_token.clone()),
        }
    }
}

/// The input of one mutation on its way to a command: collects everything that is wrong with it.
pub struct Input<'a> {
    executor: &'a Executor,
    request: &'a RequestContext,
    command: String,
    context: CommandContext,
    errors: Vec<UserError>,
}

impl<'a> Input<'a> {
    /// Starts with what every input may carry. The command's name and its target decide whether the caller may send it
    /// at all; that comes before everything else, so that a refusal tells nothing.
    pub fn new(
        ctx: &Context<'a>,
        command: &str,
        target: Option<&ID>,
        command_id: Option<Uuid>,
        expected_version: Option<Int64>,
    ) -> Result<Self, Error> {
        let executor = ctx.data::<Executor>()?;
        let caller = ctx.data::<Caller>()?;
        let request = ctx.data::<RequestContext>()?;
        let mut context = caller.command_context(request, command_id);
        context.expected_version = expected_version.map(|version| version.0);
        let id = target.and_then(parse_id).unwrap_or_default();
        if !access::policy::permits(&context.caller, command, id) {
            request.add_rejection(command, ErrorCode::Forbidden);
            return Err(not_allowed());
        }
        Ok(Self { executor, request, command: command.to_owned(), context, errors: Vec::new() })
    }

    /// The command's context.
    pub fn context(&self) -> &CommandContext {
        &self.context
    }

    /// A field that must pass its check.
    pub fn field<T>(&mut self, name: &str, checked: Result<T, InvalidValue>) -> Option<T> {
        match checked {
            Ok(value) => Some(value),
            Err(problem) => {
                self.errors.push(UserError::new(ErrorCode::Invalid, problem.message, Some(name)));
                None
            }
        }
    }

    /// An optional field that must pass its check where it is given.
    pub fn optional<T>(
        &mut self,
        name: &str,
        text: Option<String>,
        parse: impl FnOnce(&str) -> Result<T, InvalidValue>,
    ) -> Option<T> {
        text.and_then(|text| self.field(name, parse(&text)))
    }

    /// Executes the command on the aggregate that the client named, unless something was wrong with the input.
    pub async fn send_to<A: Decider>(
        mut self,
        target: &ID,
        command: Option<impl Into<A::Command> + Send>,
    ) -> Result<Answer, Error> {
        if let Some(id) = parse_id(target) {
            return self.send::<A>(id, command).await;
        }
        // What is no id of ours is the id of nothing.
        if self.errors.is_empty() {
            self.errors.push(not_found());
        }
        Ok(self.rejected())
    }

    /// Executes the command on the aggregate `id`, unless something was wrong with the input.
    pub async fn send<A: Decider>(
        self,
        id: Uuid,
        command: Option<impl Into<A::Command> + Send>,
    ) -> Result<Answer, Error> {
        let command = match command {
            Some(command) if self.errors.is_empty() => command,
            _ => return Ok(self.rejected()),
        };
        let done =
            self.executor.execute::<A>(&self.context, id, command, CommandSideEffects::default()).await;
        self.answer(done)
    }

    /// Answers with what a use case came to, which runs unless something was wrong with the input.
    pub async fn send_by<A: Decider, C>(
        mut self,
        target: &ID,
        command: Option<C>,
        case: impl AsyncFnOnce(
            &Executor,
            &CommandContext,
            Uuid,
            C,
        ) -> Result<CommandResult<A>, ExecuteError<A::Rejection>>,
    ) -> Result<Answer, Error> {
        let Some(id) = parse_id(target) else {
            if self.errors.is_empty() {
                self.errors.push(not_found());
            }
            return Ok(self.rejected());
        };
        match command {
            Some(command) if self.errors.is_empty() => {
                let done = case(self.executor, &self.context, id, command).await;
                self.answer(done)
            }
            _ => Ok(self.rejected()),
        }
    }

    fn answer<A: Decider>(
        mut self,
        done: Result<CommandResult<A>, ExecuteError<A::Rejection>>,
    ) -> Result<Answer, Error> {
        match done {
            Ok(executed) => Ok(Answer::accepted(&executed)),
            Err(error) => {
                let expected = self.context.expected_version.is_some();
                self.errors.push(refusal(error, expected)?);
                Ok(self.rejected())
            }
        }
    }

    /// The refusal, with everything that is wrong; the activity log hears of the first.
    fn rejected(self) -> Answer {
        let code = self.errors.first().map_or(ErrorCode::Invalid, |error| error.catalogued);
        self.request.add_rejection(&self.command, code);
        Answer::rejected(self.context.command_id.unwrap_or_else(ids::new_id), self.errors)
    }
}

/// A refusal as a user error, or as a top-level error where it is no answer to the command.
fn refusal<R: Rejection>(error: ExecuteError<R>, version_expected: bool) -> Result<UserError, Error> {
    let (code, message) = (error.code(), error.to_string());
    match error {
        ExecuteError::NotFound => Ok(not_found()),
        ExecuteError::VersionConflict { .. } if version_expected => {
            Ok(UserError::new(code, message, Some("expectedVersion")))
        }
        ExecuteError::CommandIdReused => Ok(UserError::new(code, message, Some("commandId"))),
        ExecuteError::Reserved { kind, .. } => Ok(UserError::new(code, message, Some(&kind))),
        ExecuteError::Rejected(_)
        | ExecuteError::Exists { .. }
        | ExecuteError::TooLarge { .. }
        | ExecuteError::Invalid(_)
        | ExecuteError::SubjectErased => Ok(UserError::new(code, message, None)),
        ExecuteError::Forbidden => Err(not_allowed()),
        // Without an expected version this is a contended aggregate, which only time helps.
        error @ (ExecuteError::Unavailable(_)
        | ExecuteError::Overloaded
        | ExecuteError::VersionConflict { .. }) => {
            tracing::warn!(cause = %Cause::of(&error), "a command is unavailable");
            Err(ErrorCode::Unavailable.error("unavailable for the moment"))
        }
        error @ (ExecuteError::TenantUnknown | ExecuteError::Internal { .. }) => Err(internal(&error)),
    }
}

fn not_found() -> UserError {
    UserError::new(ErrorCode::NotFound, "there is nothing under this id", Some("id"))
}

fn not_allowed() -> Error {
    ErrorCode::Forbidden.error("the caller may not send this command")
}

/// The id that a client gave, where it can be one of ours.
pub fn parse_id(id: &ID) -> Option<Uuid> {
    Uuid::parse_str(id.as_str()).ok()
}

#[cfg(test)]
mod tests {
    use commands::CustomerRejection;
    use schemas::engine::StreamName;

    use super::*;

    type Failure = ExecuteError<CustomerRejection>;

    fn code_and_path(error: Failure, version_expected: bool) -> (String, Option<Vec<String>>) {
        let error = refusal(error, version_expected).expect("a user error");
        (error.code, error.path)
    }

    #[test]
    fn refusals_are_data_with_stable_codes() {
        let path = |field: &str| Some(vec![field.to_owned()]);
        assert_eq!(code_and_path(Failure::NotFound, false), ("NOT_FOUND".to_owned(), path("id")));
        assert_eq!(
            code_and_path(Failure::VersionConflict { actual: 3 }, true),
            ("VERSION_CONFLICT".to_owned(), path("expectedVersion"))
        );
        assert_eq!(
            code_and_path(Failure::CommandIdReused, false),
            ("COMMAND_ID_REUSED".to_owned(), path("commandId"))
        );
        let holder = StreamName::parse("identity.user/1").expect("valid");
        let taken = Failure::Reserved { kind: "email".to_owned(), holder };
        assert_eq!(code_and_path(taken, false), ("EMAIL_TAKEN".to_owned(), path("email")));
        let rejected = Failure::Rejected(CustomerRejection::Closed);
        assert_eq!(code_and_path(rejected, false), ("CUSTOMER_CLOSED".to_owned(), None));
    }

    #[test]
    fn what_is_no_answer_to_the_command_is_a_top_level_error() {
        let code = |error: Failure| {
            let error = refusal(error, false).expect_err("a top-level error");
            error.extensions.and_then(|extensions| extensions.get("code").cloned()).expect("a code")
        };
        assert_eq!(code(Failure::Forbidden), async_graphql::Value::from("FORBIDDEN"));
        assert_eq!(code(Failure::Overloaded), async_graphql::Value::from("UNAVAILABLE"));
        assert_eq!(code(Failure::VersionConflict { actual: 1 }), async_graphql::Value::from("UNAVAILABLE"));
        assert_eq!(code(Failure::TenantUnknown), async_graphql::Value::from("INTERNAL"));
    }
}
