//! The past: an object as it was, and the pages of its history.

use access::ErrorCode;
use async_graphql::dynamic::{
    Field, FieldFuture, FieldValue, InputObject, InputValue, Object, ObjectAccessor, TypeRef,
};
use async_graphql::{Error, Value};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use queries::{AsOf, Past, QueryError, ReadModel, Record, as_of};
use schemas::engine::recorded::timestamp;
use schemas::engine::{Model, RecordedEvent, clock, parse_time};
use std::sync::Arc;
use store::TenantStore;
use uuid::Uuid;

use super::errors::{GraphqlError, failure, nullable};
use super::kinds::Types;
use super::pages::{self, Connection, Node, argument, number_argument, page_size, read_error, text_argument};
use super::reads::id_argument;
use super::rows::{Shown, may_see};
use crate::auth::Caller;

/// An integer of 64 bits, as digits or as a number.
pub fn int64(value: &Value) -> Option<u64> {
    match value {
        Value::String(digits) => digits.parse().ok(),
        Value::Number(number) => number.as_u64(),
        _ => None,
    }
}

/// The moment that a client gives. A position after the head of the log and a time in the future are errors: what will
/// be recorded by then is unknown. Whether the object has reached a version is known when it is read.
///
/// # Errors
/// `BAD_REQUEST`; the errors of the store.
pub async fn moment(given: &ObjectAccessor<'_>, tenant: &TenantStore) -> Result<AsOf, Error> {
    let named = |name: &str| given.get(name).map(|value| value.as_value().clone());
    if let Some(position) = named("position").as_ref().and_then(int64) {
        let head = tenant.head().await.map_err(|error| failure(&error))?;
        if position > head.position {
            let detail = format!("the log ends at position {}", head.position);
            return Err(ErrorCode::BadRequest.error(detail));
        }
        return Ok(AsOf::Position(head.log_id, position));
    }
    if let Some(version) = named("version").as_ref().and_then(int64) {
        return Ok(AsOf::Version(version));
    }
    match named("time") {
        Some(Value::String(text)) => match parse_time(&text) {
            Ok(time) if time > clock::now() => Err(ErrorCode::BadRequest.error("the time is in the future")),
            Ok(time) => Ok(AsOf::Time(time)),
            Err(error) => Err(ErrorCode::BadRequest.error(error.message)),
        },
        _ => Err(ErrorCode::BadRequest.error("`asOf` names no moment")),
    }
}

/// What was read of an object's past. A version that the object has not reached is an error for callers who may see the
/// object, and nothing for others: they learn neither that it exists nor its version.
async fn reached<T>(
    read: Result<T, QueryError>,
    read_model: &'static ReadModel,
    caller: &Caller,
    id: Uuid,
) -> Result<Option<T>, Error> {
    match read {
        Err(error @ QueryError::VersionBeyond { .. }) => {
            let row = as_of::at(&caller.store, read_model, id, None).await.map_err(read_error)?;
            if row.is_some_and(|row| may_see(read_model.model, caller, &row)) {
                Err(read_error(error))
            } else {
                Ok(None)
            }
        }
        read => read.map(Some).map_err(read_error),
    }
}

/// The row as of a moment.
///
/// # Errors
/// `BAD_REQUEST` for a version that the object has not reached, if the caller may see the object.
pub async fn row_as_of(
    read_model: &'static ReadModel,
    caller: &Caller,
    id: Uuid,
    moment: AsOf,
) -> Result<Option<Record>, Error> {
    let read = as_of::at_moment(&caller.store, read_model, id, moment).await;
    Ok(reached(read, read_model, caller, id).await?.flatten())
}

/// An event of an object's history, with the row after it.
#[derive(Clone)]
struct PastEntry(Arc<Past>);

/// The root field of a history.
pub fn field(read_model: &'static ReadModel) -> Field {
    let model = read_model.model;
    let ty = TypeRef::named(format!("{}FactConnection", model.object));
    let field = Field::new(format!("{}History", model.one), ty, move |ctx| {
        nullable(ctx, move |ctx| async move {
            let caller = ctx.data::<Caller>()?;
            let first = page_size(number_argument(&ctx.args, "first")?)?;
            let after = text_argument(&ctx.args, "after")?;
            let after = after.as_deref().map_or(Some(0), version).ok_or_else(|| {
                ErrorCode::CursorInvalid.error("the cursor does not belong to this history")
            })?;
            let Some(id) = id_argument(&ctx.args) else { return Ok(None) };
            let read = as_of::history(&caller.store, read_model, id, after, first).await;
            let Some(history) = reached(read, read_model, caller, id).await? else { return Ok(None) };
            if !history.row.as_ref().is_some_and(|row| may_see(model, caller, row)) {
                return Ok(None);
            }
            // Versions have no gaps, so the last one tells how many events there are.
            let last = history.facts.last().map_or(after, |last| last.event.version);
            let total = history.total;
            let node = |past: Past| {
                let (cursor, entry) = (cursor(past.event.version), PastEntry(Arc::new(past)));
                Node { cursor, value: Box::new(move || FieldValue::owned_any(entry.clone())) }
            };
            let nodes = history.facts.into_iter().map(node).collect();
            Ok(Some(Connection::new(nodes, last < total, after > 0, Some(total)).into_value()))
        })
    });
    field
        .argument(InputValue::new("id", TypeRef::named_nn("ID")).description("The id."))
        .argument(argument("first", "Int", "The number of events."))
        .argument(argument("after", "String", "The cursor before the first event."))
        .description(format!(
            "The history of one {}, the oldest event first, by pages of at most 100; null if the caller may not see it.",
            model.one
        ))
}

/// Adds the entries of a history.
pub fn add_entry(types: &mut Types, model: &'static Model) {
    type Read = fn(&RecordedEvent) -> Value;
    let fields: [(&str, &str, &str, Read); 6] = [
        ("version", "Int64", "The version of the object after the event.", |event| {
            event.version.to_string().into()
        }),
        ("position", "Int64", "The position of the event in the tenant's log.", |event| {
            event.position.to_string().into()
        }),
        ("type", "String", "The type of the event.", |event| event.event_type.to_string().into()),
        ("eventId", "UUID", "The id of the event.", |event| event.event_id.to_string().into()),
        ("recordedAt", "DateTime", "When the event was recorded.", |event| {
            timestamp(event.recorded_at).into()
        }),
        ("actor", "String", "Who caused the event.", |event| event.metadata.actor.to_string().into()),
    ];
    let name = format!("{}Fact", model.object);
    let mut object = Object::new(&name).description("An event of an object's history.");
    for (name, ty, description, read) in fields {
        let field = Field::new(name, TypeRef::named_nn(ty), move |ctx| {
            let entry = ctx.parent_value.downcast_ref::<PastEntry>();
            FieldFuture::from_value(entry.map(|entry| read(&entry.0.event)))
        });
        object = object.field(field.description(description));
    }
    let state = Field::new("state", TypeRef::named(model.object), |ctx| {
        let entry = ctx.parent_value.downcast_ref::<PastEntry>();
        FieldFuture::Value(entry.and_then(|entry| entry.0.row.clone()).map(Shown::past))
    });
    types.add(object.field(state.description("The object after the event.")));
    pages::add_connection(types, &name);
}

/// Adds the type of a moment.
pub fn add_as_of(types: &mut Types) {
    types.add(
        InputObject::new("AsOf")
            .oneof()
            .description("A moment of the past, given in one of three ways.")
            .field(argument("position", "Int64", "When the tenant's log ended at this position."))
            .field(argument(
                "time",
                "DateTime",
                "When everything was there that had been recorded by this time.",
            ))
            .field(argument("version", "Int64", "When the object was at this version.")),
    );
}

/// A version as a cursor. It reveals nothing and opens nothing, so it is not authenticated.
fn cursor(version: u64) -> String {
    URL_SAFE_NO_PAD.encode(format!("version:{version}"))
}

fn version(cursor: &str) -> Option<u64> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    text.strip_prefix("version:")?.parse().ok().filter(|version| i64::try_from(*version).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_another_text_is_none() {
        assert_eq!(version(&cursor(7)), Some(7));
        for wrong in ["", "7", "dmVyc2lvbjo", "dmVyc2lvbjotMQ", "???"] {
            assert_eq!(version(wrong), None, "{wrong}");
        }
    }
}
