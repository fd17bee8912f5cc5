//! `/v1/event-types`: the types of events that services outside the product record, with the schemas of their data.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use commands::{EventFamily, EventTypeRejection, ExecuteError, Executed, Outcome, register_event_type};
use schemas::engine::{InvalidValue, Notes};
use schemas::integration::event_type::{RegisterEventType, family_id};
use schemas::integration::names::{ExternalType, RESERVED};
use serde_json::{Value, json};

use super::pages::PageQuery;
use crate::auth::Caller;
use crate::gateway::Gateway;
use crate::http::{Body, ErrorCode, FieldError, IdempotencyKey, Problem, RequestContext};

/// `PUT /v1/event-types/{type}`: registers a version of a fact, or widens one.
pub async fn put(
    State(gateway): State<Gateway>,
    request: RequestContext,
    caller: Caller,
    key: IdempotencyKey,
    Path(name): Path<String>,
    Body(mut body): Body,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let event_type = external("type", &name, ExternalType::parse)?;
    let schema = body.any("schema", true);
    let description = body.optional("description", Notes::parse);
    let schema = body.finish(|| schema)?;
    let context = caller.command_context(&request, key.0);
    let known =
        gateway.executor.load::<EventFamily>(caller.record.id, family_id(event_type.family())).await?;
    let known = known.is_some_and(|(family, _)| family.version(event_type.number()).is_some());
    let command = RegisterEventType { event_type: event_type.clone(), schema, description };
    let executed = register_event_type(&gateway.executor, &context, command).await.map_err(refused)?;
    let created = match executed.outcome {
        Outcome::Applied => !known,
        Outcome::Duplicate => executed.state.registered_last,
    };
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let Executed { state, consistency_token, .. } = executed;
    let body = described(&state, &event_type).ok_or(Problem::new(ErrorCode::NotFound))?;
    Ok((status, Json(json!({ "event_type": body, "consistency_token": consistency_token }))))
}

/// `GET /v1/event-types/{type}`: one version with its schema.
pub async fn show(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let event_type = ExternalType::parse(&name).map_err(|_| Problem::new(ErrorCode::NotFound))?;
    let found =
        gateway.executor.load::<EventFamily>(caller.record.id, family_id(event_type.family())).await?;
    let body = found
        .and_then(|(family, _)| described(&family, &event_type))
        .ok_or(Problem::new(ErrorCode::NotFound))?;
    Ok(Json(json!({ "event_type": body })))
}

/// `GET /v1/event-types`: facts by pages, each with its versions and without their schemas, in an order that is stable
/// and means nothing.
pub async fn list(State(gateway): State<Gateway>, caller: Caller, uri: Uri) -> Result<Json<Value>, Problem> {
    let page = PageQuery::read(&uri)?;
    let (ids, next_after) = page.ids::<EventFamily>(&caller.store).await?;
    let mut types = Vec::new();
    for id in &ids {
        let Some((family, _)) = gateway.executor.load::<EventFamily>(caller.record.id, *id).await? else {
            continue;
        };
        types.extend(
            family
                .versions
                .into_iter()
                .map(|version| json!({ "type": version.event_type, "description": version.description })),
        );
    }
    Ok(Json(json!({ "event_types": types, "next_after": next_after })))
}

fn described(family: &EventFamily, event_type: &ExternalType) -> Option<Value> {
    let version = family.version(event_type.number())?;
    Some(json!({
        "type": version.event_type,
        "category": event_type.category(),
        "version": event_type.number(),
        "latest": family.versions.len(),
        "description": version.description,
        "schema": version.schema,
    }))
}

/// A name of a service's own, or 403 where it is the product's.
pub fn external<T>(
    field: &str,
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, InvalidValue>,
) -> Result<T, Problem> {
    parse(text).map_err(|error| {
        if error.code == RESERVED { reserved(&error) } else { Problem::invalid_field(field, error) }
    })
}

/// 403 for the product's own names.
pub fn reserved(error: &InvalidValue) -> Problem {
    Problem::new(ErrorCode::ReservedContext).detail(format!("the name {}", error.message))
}

fn refused(error: ExecuteError<EventTypeRejection>) -> Problem {
    let ExecuteError::Rejected(rejection) = error else { return error.into() };
    let message = rejection.to_string();
    match rejection {
        EventTypeRejection::NotNext { .. } => Problem::new(ErrorCode::EventTypeVersionGap).detail(message),
        EventTypeRejection::Narrower { at, .. } => {
            let narrower = InvalidValue::new("schema_narrower", "accepts less than before, or may do so");
            Problem::new(ErrorCode::SchemaIncompatible)
                .detail(message)
                .errors(vec![FieldError::new(format!("schema.{at}"), narrower)])
        }
        EventTypeRejection::Schema(error) => {
            let field =
                if error.at.is_empty() { "schema".to_owned() } else { format!("schema.{}", error.at) };
            Problem::invalid_field(&field, InvalidValue::new("schema_invalid", error.message))
        }
    }
}
