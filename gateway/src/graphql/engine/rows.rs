//! Rows on their way to a client, and who may see them.

use std::sync::Arc;

use access::policy::read_permission;
use async_graphql::dynamic::FieldValue;
use async_graphql::{Error, Value};
use queries::{Parameter, Record, Select};
use schemas::engine::{Column, Model};
use uuid::Uuid;

use super::errors::forbidden;
use super::kinds;
use crate::auth::Caller;

/// A row, as the parent of its fields.
#[derive(Clone)]
pub struct Shown(Arc<Record>);

impl Shown {
    /// The row as a value of a field.
    pub fn value(record: Record) -> FieldValue<'static> {
        FieldValue::owned_any(Self(Arc::new(record)))
    }

    /// The value of a column; `None` if it is null.
    pub fn column(&self, column: &Column) -> Option<Value> {
        let value = kinds::output(&column.kind, self.0.get(column.name)?);
        (value != Value::Null).then_some(value)
    }
}

/// Restricts a list to the rows that the caller may see: all of them, or its own if the read model has an owner.
///
/// # Errors
/// `FORBIDDEN` if the caller may see no row.
pub fn visible(select: Select, caller: &Caller) -> Result<Select, Error> {
    let permission = read_permission(select.model);
    if caller.has_permission(&permission) {
        return Ok(select);
    }
    let owner = select.model.owner.and_then(|owner| select.model.column(owner));
    match owner {
        Some(owner) if caller.has_permission_for(&permission, caller.user_id()) => {
            Ok(select.and(owner, Parameter::Uuid(caller.user_id())))
        }
        _ => {
            let problem = caller.require_permission(&permission).err();
            Err(problem.as_ref().map_or_else(|| Error::new("not allowed"), forbidden))
        }
    }
}

/// Whether the caller may see a row.
pub fn may_see(model: &'static Model, caller: &Caller, row: &Record) -> bool {
    let owner = model.owner.and_then(|owner| row.get(owner)?.as_str());
    let owner = owner.and_then(|owner| Uuid::parse_str(owner).ok());
    caller.has_permission_for(&read_permission(model), owner.unwrap_or_default())
}
