//! `/v1/event-types`: the types of external events, with the schemas of their data.

use access::policy::EVENTS_READ;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri};
use bytes::Bytes;
use commands::{CommandResult, EventFamily, EventTypeRejection, ExecuteError, Executor, ExternalEvents};
use schemas::engine::{InvalidValue, JsonText, Notes};
use schemas::integration::event_type::{EventTypeCommand, family_id};
use schemas::integration::names::{ExternalType, RESERVED_CONTEXT};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::pages::PageQuery;
use crate::auth::Caller;
use crate::http::content::json_bytes;
use crate::http::json::{json_problem, read_json};
use crate::http::route::{AccessRule, AuthoritySource, Idempotency, Route};
use crate::http::{ErrorCode, FieldError, IdempotencyKey, JsonFields, Path, Problem, RequestContext};
use crate::routes::Routes;

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    // Rights depend on the category, so the handler checks who may register a type.
    let registration = Route::public(Method::PUT, "/v1/event-types/{type}")
        .access(AccessRule::Token)
        .authority(AuthoritySource::UseCase)
        .idempotency(Idempotency::Rebuilt);
    routes
        .add(Route::get("/v1/event-types", &EVENTS_READ), list)
        .add(Route::get("/v1/event-types/{type}", &EVENTS_READ), show)
        .add(registration, put)
}

/// `PUT /v1/event-types/{type}`: registers a version of a type, or widens its schema.
async fn put(
    State(external_events): State<ExternalEvents>,
    context: RequestContext,
    caller: Caller,
    key: IdempotencyKey,
    Path(name): Path<String>,
    request: Request,
) -> Result<(StatusCode, Json<PutBody>), Problem> {
    let event_type = parse_external_name("type", &name, ExternalType::parse)?;
    let (schema, description) = read(&json_bytes(request).await?)?;
    let context = caller.command_context(&context, key.0);
    let command = EventTypeCommand::RegisterEventType { event_type: event_type.clone(), schema, description };
    let executed = external_events.register_type(&context, command).await.map_err(to_problem)?;
    // Depends only on the events of the command, so a repeated request gets the same answer.
    let created = executed.count > 0 && executed.state.last_is_registration;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let CommandResult { state, consistency_token, .. } = executed;
    let event_type = EventTypeBody::of(&state, &event_type).ok_or(Problem::new(ErrorCode::NotFound))?;
    Ok((status, Json(PutBody { event_type, consistency_token })))
}

/// The schema as the client sent it. Its numbers may exceed what a [`Value`] can hold.
#[derive(Deserialize)]
struct RawBody {
    schema: Option<JsonText>,
}

fn read(bytes: &Bytes) -> Result<(JsonText, Option<Notes>), Problem> {
    let Value::Object(values) = read_json(bytes)? else {
        return Err(Problem::bad_request("the body must be a JSON object"));
    };
    let raw: RawBody = serde_json::from_slice(bytes).map_err(|error| json_problem(&error))?;
    let mut body = JsonFields::new(values);
    let present = body.any("schema", true).is_some();
    let description = body.optional("description", Notes::parse);
    let schema = body.finish(|| raw.schema.filter(|_| present))?;
    Ok((schema, description))
}

/// The answer of `PUT`. It is serialized directly, so that the schema keeps the client's text.
#[derive(Debug, Serialize)]
pub struct PutBody {
    event_type: EventTypeBody,
    consistency_token: String,
}

/// The answer of `GET` for one type.
#[derive(Debug, Serialize)]
pub struct ShowBody {
    event_type: EventTypeBody,
}

#[derive(Debug, Serialize)]
struct EventTypeBody {
    #[serde(rename = "type")]
    event_type: String,
    category: String,
    version: u32,
    latest: usize,
    description: Option<Notes>,
    schema: JsonText,
}

/// `GET /v1/event-types/{type}`: one version with its schema.
async fn show(
    State(executor): State<Executor>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<ShowBody>, Problem> {
    let event_type = ExternalType::parse(&name).map_err(|_| Problem::new(ErrorCode::NotFound))?;
    let found = executor.load::<EventFamily>(caller.record.id, family_id(event_type.family())).await?;
    let event_type = found.and_then(|(family, _)| EventTypeBody::of(&family, &event_type));
    Ok(Json(ShowBody { event_type: event_type.ok_or(Problem::new(ErrorCode::NotFound))? }))
}

/// `GET /v1/event-types`: pages of types with their versions and without schemas, in a stable order without meaning.
async fn list(State(executor): State<Executor>, caller: Caller, uri: Uri) -> Result<Json<Value>, Problem> {
    let page = PageQuery::read(&uri)?;
    let (ids, next_after) = page.ids::<EventFamily>(&caller.store).await?;
    let mut types = Vec::new();
    for id in &ids {
        let Some((family, _)) = executor.load::<EventFamily>(caller.record.id, *id).await? else {
            continue;
        };
        types.extend(
            family
                .versions
                .iter()
                .map(|version| json!({ "type": version.event_type, "description": version.description })),
        );
    }
    Ok(Json(json!({ "event_types": types, "next_after": next_after })))
}

impl EventTypeBody {
    fn of(family: &EventFamily, event_type: &ExternalType) -> Option<Self> {
        let version = family.version(event_type.number())?;
        Some(Self {
            event_type: version.event_type.clone(),
            category: event_type.category().to_string(),
            version: event_type.number(),
            latest: family.versions.len(),
            description: version.description.clone(),
            schema: version.schema.clone(),
        })
    }
}

/// Parses a name of an external type or category.
///
/// # Errors
/// 403 for a name of the product; 422 for an invalid one.
pub fn parse_external_name<T>(
    field: &str,
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, InvalidValue>,
) -> Result<T, Problem> {
    parse(text).map_err(|error| {
        if error.code == RESERVED_CONTEXT {
            reserved_name_problem(&error)
        } else {
            Problem::invalid_field(field, error)
        }
    })
}

/// The problem for an invalid name: 403 for a name of the product.
pub fn reserved_name_problem(error: &InvalidValue) -> Problem {
    Problem::new(ErrorCode::ReservedContext).detail(format!("the name {}", error.message))
}

fn to_problem(error: ExecuteError<EventTypeRejection>) -> Problem {
    let ExecuteError::Rejected(rejection) = error else { return error.into() };
    let message = rejection.to_string();
    match rejection {
        EventTypeRejection::VersionGap { .. } => Problem::new(ErrorCode::EventTypeVersionGap).detail(message),
        EventTypeRejection::Incompatible { at, .. } => {
            let narrower = InvalidValue::new("schema_incompatible", "accepts less than before, or may do so");
            Problem::new(ErrorCode::SchemaIncompatible)
                .detail(message)
                .errors(vec![FieldError::new(format!("schema.{at}"), narrower)])
        }
        EventTypeRejection::VersionsExceeded => {
            Problem::invalid_field("type", InvalidValue::new("versions_exceeded", message))
        }
        EventTypeRejection::BytesExceeded => {
            Problem::invalid_field("schema", InvalidValue::new("schemas_too_large", message))
        }
        EventTypeRejection::Schema(error) => {
            let field =
                if error.at.is_empty() { "schema".to_owned() } else { format!("schema.{}", error.at) };
            Problem::invalid_field(&field, InvalidValue::new("schema_invalid", error.message))
        }
    }
}
