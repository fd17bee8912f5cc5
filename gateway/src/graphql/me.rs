//! `me`: the caller, and the customer that it is. No description covers it.

use async_graphql::dynamic::{Field, Object, TypeRef};
use queries::{CustomerRow, ReadModel, Record, UserRow, as_of};
use schemas::engine::{Column, Row};
use serde_json::Value as Json;

use super::engine::errors::{internal, nullable};
use super::engine::kinds::{self, Types};
use super::engine::pages::read_error;
use super::engine::rows::Shown;
use crate::auth::Caller;

/// Adds the root field and its type.
pub fn add(query: Object, types: &mut Types) -> Object {
    let columns: Vec<&'static Column> =
        UserRow::MODEL.all_columns().filter(|column| column.visible && column.name != "erased").collect();
    let mut object = Object::new("Me").description("The caller.");
    for column in columns {
        object = object.field(kinds::column_field(types, column));
    }
    let customer = Field::new("customer", TypeRef::named(CustomerRow::MODEL.object), |ctx| {
        nullable(ctx, |ctx| async move {
            let caller = ctx.data::<Caller>()?;
            let found = queries::find(&caller.store, CustomerRow::USER_ID, &caller.user_id()).await;
            let Some(entry) = found.map_err(read_error)? else { return Ok(None) };
            match serde_json::to_value(entry) {
                Ok(Json::Object(record)) => Ok(Some(Shown::value(record))),
                Ok(_) => Ok(None),
                Err(error) => Err(internal(&error)),
            }
        })
    });
    types.add(object.field(customer.description(
        "The customer that the caller is, if any. It follows a moment after the registration.",
    )));
    let me = Field::new("me", TypeRef::named("Me"), |ctx| {
        nullable(ctx, |ctx| async move {
            let caller = ctx.data::<Caller>()?;
            let Some(users) = ReadModel::find(UserRow::MODEL.name) else { return Ok(None) };
            let row: Option<Record> =
                as_of::at(&caller.store, users, caller.user_id(), None).await.map_err(read_error)?;
            Ok(row.map(Shown::value))
        })
    });
    query.field(me.description("The caller, from its own events, so without delay."))
}
