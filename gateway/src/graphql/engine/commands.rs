//! Mutations: each one is a command. A rejection is data (`userErrors`); only an error that is no answer to the command
//! (not allowed, unavailable, an internal error) is an error of the field.

use std::sync::Arc;

use access::{ErrorCode, Rejection};
use async_graphql::dynamic::{
    Enum, EnumItem, Field, FieldFuture, FieldValue, InputObject, InputValue, Object, ResolverContext, TypeRef,
};
use async_graphql::{Error, Name, Value};
use commands::{AnyAggregate, CommandContext, Dispatched, ExecuteError, ExecutionOutcome, Executor};
use queries::{Reached, ReadModel, RowCache};
use schemas::engine::{CommandTarget, CommandType, Input, InputError, ids};
use serde_json::Value as Json;
use uuid::Uuid;

use super::errors::{GraphqlError, internal, nullable};
use super::kinds::{self, Types};
use super::pages::{argument, read_error};
use super::reads::json;
use super::rows::{Shown, may_see};
use crate::auth::Caller;
use crate::http::RequestContext;
use crate::http::failures::Cause;

/// Why a command was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
struct UserError {
    code: ErrorCode,
    message: String,
    path: Option<Vec<String>>,
}

impl UserError {
    fn new(code: ErrorCode, message: impl Into<String>, path: Option<&str>) -> Self {
        let path = path.map(|path| path.split('.').map(str::to_owned).collect());
        Self { code, message: message.into(), path }
    }
}

impl From<InputError> for UserError {
    fn from(InputError { path, message }: InputError) -> Self {
        Self { code: ErrorCode::Invalid, message, path: Some(path) }
    }
}

/// The result of a mutation.
#[derive(Clone)]
struct Payload {
    command_id: Uuid,
    result: Result<Dispatched, Arc<[UserError]>>,
}

/// A mutation: the command, its aggregate, and the read model that shows it.
#[derive(Clone, Copy)]
struct Mutation {
    aggregate: &'static AnyAggregate,
    command: &'static CommandType,
    read_model: &'static ReadModel,
}

/// Adds the mutations of an aggregate, their inputs and their payload.
pub fn add(
    mutation: Object,
    types: &mut Types,
    aggregate: &'static AnyAggregate,
    read_model: &'static ReadModel,
) -> Object {
    types.add(payload(read_model));
    aggregate.commands.iter().filter(|command| !command.internal).fold(mutation, |mutation, command| {
        let input = input(types, command, read_model.model.one);
        types.add(input);
        mutation.field(field(Mutation { aggregate, command, read_model }))
    })
}

fn input(types: &mut Types, command: &'static CommandType, noun: &str) -> InputObject {
    let expected = match command.target {
        CommandTarget::New => format!("The expected version of the {noun}: 0 for a new one."),
        _ => format!("The expected version of the {noun}. The command is rejected at another version."),
    };
    let mut input = InputObject::new(format!("{}Input", command.name))
        .description(command.description)
        .field(argument(
            "commandId",
            "UUID",
            "A repeat with the same id does nothing and gets the first answer.",
        ))
        .field(argument("expectedVersion", "Int64", &expected));
    if command.target != CommandTarget::New {
        let id = InputValue::new("id", TypeRef::named_nn("ID"));
        input = input.field(id.description(format!("The id of the {noun}.")));
    }
    kinds::with_inputs(types, input, command.fields)
}

fn field(mutation: Mutation) -> Field {
    let Mutation { command, read_model, .. } = mutation;
    let ty = TypeRef::named(format!("{}Payload", read_model.model.object));
    let field = Field::new(command.graphql_name, ty, move |ctx| {
        nullable(ctx, move |ctx| async move { Ok(Some(FieldValue::owned_any(mutation.run(&ctx).await?))) })
    });
    let input = InputValue::new("input", TypeRef::named_nn(format!("{}Input", command.name)));
    field.argument(input.description("The command.")).description(command.description)
}

impl Mutation {
    async fn run(self, ctx: &ResolverContext<'_>) -> Result<Payload, Error> {
        let (executor, caller) = (ctx.data::<Executor>()?, ctx.data::<Caller>()?);
        let request = ctx.data::<RequestContext>()?;
        let Json::Object(input) = json(ctx.args.try_get("input")?.as_value())? else {
            return Err(ErrorCode::BadRequest.error("`input` must be an object"));
        };
        let text = |name: &str| input.get(name).and_then(Json::as_str);
        let command_id = text("commandId").and_then(|id| Uuid::parse_str(id).ok());
        let mut context = caller.command_context(request, command_id);
        context.expected_version = input.get("expectedVersion").and_then(|version| {
            version.as_u64().or_else(|| version.as_str().and_then(|digits| digits.parse().ok()))
        });
        let id = match self.command.target {
            CommandTarget::New => Some(commands::new_aggregate_id(&context, self.aggregate.category)),
            _ => text("id").and_then(|id| Uuid::parse_str(id).ok()),
        };
        // The permission is checked before anything else, so that a refusal reveals nothing.
        if !access::policy::permits(&context.caller, self.command.name, id.unwrap_or_default()) {
            request.add_rejection(self.command.name, ErrorCode::Forbidden);
            return Err(not_allowed());
        }
        let result = self.execute(executor, &context, id, &input).await?;
        if let Err(errors) = &result {
            let code = errors.first().map_or(ErrorCode::Invalid, |error| error.code);
            request.add_rejection(self.command.name, code);
        }
        let command_id = match &result {
            Ok(dispatched) => dispatched.command_id,
            Err(_) => command_id.unwrap_or_else(ids::new_id),
        };
        Ok(Payload { command_id, result: result.map_err(Into::into) })
    }

    async fn execute(
        self,
        executor: &Executor,
        context: &CommandContext,
        id: Option<Uuid>,
        input: &Input,
    ) -> Result<Result<Dispatched, Vec<UserError>>, Error> {
        let command = match self.aggregate.read(self.command.name, id.unwrap_or_default(), input) {
            Ok(command) => command,
            Err(errors) => return Ok(Err(errors.into_iter().map(UserError::from).collect())),
        };
        // There is nothing under an id that is no UUID.
        if id.is_none() {
            return Ok(Err(vec![not_found()]));
        }
        match self.aggregate.execute(executor, context, command).await {
            Ok(dispatched) => Ok(Ok(dispatched)),
            Err(error) => user_error(error, context.expected_version.is_some()).map(|error| Err(vec![error])),
        }
    }
}

/// An error as data, or as an error of the field if it is no answer to the command.
fn user_error<R: Rejection>(error: ExecuteError<R>, version_expected: bool) -> Result<UserError, Error> {
    let (code, message, path) = (error.code(), error.to_string(), error.path());
    match error {
        ExecuteError::NotFound => Ok(not_found()),
        ExecuteError::VersionConflict { .. } if version_expected => {
            Ok(UserError::new(code, message, Some("expectedVersion")))
        }
        ExecuteError::CommandIdReused => Ok(UserError::new(code, message, Some("commandId"))),
        ExecuteError::Rejected(_)
        | ExecuteError::Reserved { .. }
        | ExecuteError::Exists { .. }
        | ExecuteError::TooLarge { .. }
        | ExecuteError::Invalid(_)
        | ExecuteError::SubjectErased => Ok(UserError::new(code, message, path.as_deref())),
        ExecuteError::Forbidden => Err(not_allowed()),
        // Without an expected version, other commands keep changing the aggregate: a later try may succeed.
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

fn payload(read_model: &'static ReadModel) -> Object {
    let model = read_model.model;
    let value = |name: &str, ty: TypeRef, description: &str, read: fn(&Payload) -> Option<Value>| {
        let field = Field::new(name, ty, move |ctx| {
            FieldFuture::from_value(ctx.parent_value.downcast_ref::<Payload>().and_then(read))
        });
        field.description(description)
    };
    let errors = Field::new("userErrors", TypeRef::named_nn_list_nn("UserError"), |ctx| {
        let result = ctx.parent_value.downcast_ref::<Payload>().map(|payload| &payload.result);
        let errors = result.and_then(|result| result.as_ref().err()).cloned().unwrap_or_default();
        FieldFuture::Value(Some(FieldValue::list(
            errors.iter().cloned().map(FieldValue::owned_any).collect::<Vec<_>>(),
        )))
    });
    let object = Field::new(model.one, TypeRef::named(model.object), move |ctx| {
        nullable(ctx, move |ctx| async move {
            let payload = ctx.parent_value.try_downcast_ref::<Payload>()?;
            let Ok(dispatched) = &payload.result else { return Ok(None) };
            let (caller, rows) = (ctx.data::<Caller>()?, ctx.data::<RowCache>()?);
            let reached = Reached {
                log_id: dispatched.log_id,
                version: dispatched.version,
                recorded: dispatched.recorded.as_ref().map(|recorded| (recorded.at, &*recorded.events)),
            };
            let row = rows.row_at(&caller.store, read_model, dispatched.id, reached).await;
            let row = row.map_err(read_error)?;
            Ok(row.filter(|row| may_see(model, caller, row)).map(Shown::value))
        })
    });
    let one = model.one;
    Object::new(format!("{}Payload", model.object))
        .description(format!("The result of a command on a {one}."))
        .field(value("outcome", TypeRef::named_nn("CommandOutcome"), "What happened.", |payload| {
            Some(Value::Enum(Name::new(match &payload.result {
                Err(_) => "REJECTED",
                Ok(Dispatched { outcome: ExecutionOutcome::Duplicate, .. }) => "DUPLICATE",
                Ok(_) => "APPLIED",
            })))
        }))
        .field(value(
            "commandId",
            TypeRef::named_nn("UUID"),
            "The client's command id, or a generated one.",
            |payload| Some(payload.command_id.to_string().into()),
        ))
        .field(errors.description("Why the command was rejected; empty if it was not."))
        .field(object.description(format!(
            "The {one} after the command, from its own events; null if the command was rejected, or if the caller may \
             not see the {one}."
        )))
        .field(value(
            "version",
            TypeRef::named("Int64"),
            &format!("The version of the {one} after the command."),
            |payload| Some(payload.result.as_ref().ok()?.version.to_string().into()),
        ))
        .field(value(
            "position",
            TypeRef::named("Int64"),
            "The position of the command's last event in the tenant's log.",
            |payload| Some(payload.result.as_ref().ok()?.position.to_string().into()),
        ))
        .field(value(
            "consistencyToken",
            TypeRef::named("String"),
            "A later read with it as `X-Consistency-Token` sees the effect of the command.",
            |payload| Some(payload.result.as_ref().ok()?.consistency_token.clone().into()),
        ))
}

/// Adds the types that all payloads share.
pub fn add_shared(types: &mut Types) {
    let item = |name: &str, description: &str| EnumItem::new(name).description(description);
    types.add(
        Enum::new("CommandOutcome")
            .description("What happened with a command.")
            .item(item("APPLIED", "It took effect, or there was nothing to change."))
            .item(item("REJECTED", "It was rejected and changed nothing: see `userErrors`."))
            .item(item(
                "DUPLICATE",
                "The same `commandId` was executed before; the payload is that of the first time.",
            )),
    );
    let value = |name: &str, ty: TypeRef, description: &str, read: fn(&UserError) -> Option<Value>| {
        let field = Field::new(name, ty, move |ctx| {
            FieldFuture::from_value(ctx.parent_value.downcast_ref::<UserError>().and_then(read))
        });
        field.description(description)
    };
    types.add(
        Object::new("UserError")
            .description("Why a command was rejected.")
            .field(value("code", TypeRef::named_nn("String"), "A stable code, for programs.", |error| {
                Some(error.code.graphql().into())
            }))
            .field(value("message", TypeRef::named_nn("String"), "A message, for people.", |error| {
                Some(error.message.clone().into())
            }))
            .field(value(
                "path",
                TypeRef::named_nn_list("String"),
                "The path to the field of the input at fault, if one field is.",
                |error| error.path.clone().map(Into::into),
            )),
    );
}

#[cfg(test)]
mod tests {
    use commands::CustomerRejection;
    use schemas::engine::StreamName;

    use super::*;

    type Failure = ExecuteError<CustomerRejection>;

    fn code_and_path(error: Failure, version_expected: bool) -> (String, Option<Vec<String>>) {
        let error = user_error(error, version_expected).expect("a user error");
        (error.code.graphql(), error.path)
    }

    #[test]
    fn rejections_are_data_with_stable_codes() {
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
        let taken = Failure::Reserved { kind: commands::identity::user::EMAIL, holder };
        assert_eq!(code_and_path(taken, false), ("EMAIL_TAKEN".to_owned(), path("email")));
        let rejected = Failure::Rejected(CustomerRejection::Closed);
        assert_eq!(code_and_path(rejected, false), ("CUSTOMER_CLOSED".to_owned(), None));
    }

    #[test]
    fn what_is_no_answer_to_the_command_is_an_error_of_the_field() {
        let code = |error: Failure| {
            let error = user_error(error, false).expect_err("an error of the field");
            error.extensions.and_then(|extensions| extensions.get("code").cloned()).expect("a code")
        };
        assert_eq!(code(Failure::Forbidden), Value::from("FORBIDDEN"));
        assert_eq!(code(Failure::Overloaded), Value::from("UNAVAILABLE"));
        assert_eq!(code(Failure::VersionConflict { actual: 1 }), Value::from("UNAVAILABLE"));
        assert_eq!(code(Failure::TenantUnknown), Value::from("INTERNAL"));
    }
}
