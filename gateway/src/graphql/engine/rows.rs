//! Rows on their way to a client, and who may see them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use access::policy::read_permission;
use async_graphql::dynamic::FieldValue;
use async_graphql::{Error, Value};
use queries::{Parameter, Record, RelatedRows, Select};
use schemas::engine::{Column, Model};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::errors::forbidden;
use super::kinds;
use crate::auth::Caller;

/// A row, as the parent of its fields.
#[derive(Clone)]
pub struct Shown {
    level: Arc<Level>,
    index: usize,
}

/// Rows that were read together. What one of them is related to is read for all of them.
struct Level {
    rows: Vec<Record>,
    /// The indexes of the rows that are shown.
    shown: Vec<usize>,
    /// Whether the rows are of the past.
    is_past: bool,
    related: Mutex<HashMap<String, Reading>>,
}

/// The rows behind a relation of all rows of a level, read once.
type Reading = Arc<OnceCell<Result<Related, Error>>>;

/// The rows behind a relation of all rows of a level.
#[derive(Clone)]
pub struct Related {
    rows: Arc<RelatedRows>,
    level: Arc<Level>,
}

impl Related {
    /// The rows as they were read, and as the parents of their fields.
    pub fn new(rows: RelatedRows, records: Vec<Record>) -> Self {
        let level = Level::of(records, rows.shown(), false);
        Self { rows: Arc::new(rows), level }
    }

    /// The rows as they were read.
    pub fn rows(&self) -> &RelatedRows {
        &self.rows
    }

    /// A row, with its columns.
    pub fn row(&self, index: usize) -> (Shown, &Record) {
        (Shown { level: Arc::clone(&self.level), index }, &self.level.rows[index])
    }
}

impl Level {
    fn of(rows: Vec<Record>, shown: Vec<usize>, is_past: bool) -> Arc<Self> {
        Arc::new(Self { rows, shown, is_past, related: Mutex::default() })
    }
}

impl Shown {
    /// The row as a value of a field.
    pub fn value(record: Record) -> FieldValue<'static> {
        Self { level: Level::of(vec![record], vec![0], false), index: 0 }.into_value()
    }

    /// A row of the past as a value of a field. Its relations are null.
    pub fn past(record: Record) -> FieldValue<'static> {
        Self { level: Level::of(vec![record], vec![0], true), index: 0 }.into_value()
    }

    /// Rows that were read together.
    pub fn all(rows: Vec<Record>) -> impl Iterator<Item = Self> {
        let shown = (0..rows.len()).collect();
        let level = Level::of(rows, shown, false);
        (0..level.rows.len()).map(move |index| Self { level: Arc::clone(&level), index })
    }

    /// The row as a value of a field.
    pub fn into_value(self) -> FieldValue<'static> {
        FieldValue::owned_any(self)
    }

    fn record(&self) -> &Record {
        &self.level.rows[self.index]
    }

    /// The value of a column; `None` if it is null.
    pub fn column(&self, column: &Column) -> Option<Value> {
        let value = kinds::output(&column.kind, self.record().get(column.name)?);
        (value != Value::Null).then_some(value)
    }

    /// Whether the row is of the past.
    pub fn is_past(&self) -> bool {
        self.level.is_past
    }

    /// The id in a column; `None` if it is null.
    pub fn id(&self, column: &Column) -> Option<Uuid> {
        id_in(self.record(), column)
    }

    /// The ids in a column of all rows that were read together.
    pub fn ids_of_all(&self, column: &Column) -> Vec<Uuid> {
        let rows = self.level.shown.iter().map(|index| &self.level.rows[*index]);
        rows.filter_map(|row| id_in(row, column)).collect()
    }

    /// What is behind a relation of all rows that were read together. The first of them reads it, the others wait for it.
    ///
    /// # Errors
    /// The error of `read`.
    pub async fn related(
        &self,
        key: String,
        read: impl Future<Output = Result<Related, Error>>,
    ) -> Result<Related, Error> {
        let reading = {
            let mut related = self.level.related.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(related.entry(key).or_default())
        };
        reading.get_or_init(|| read).await.clone()
    }
}

fn id_in(row: &Record, column: &Column) -> Option<Uuid> {
    Uuid::parse_str(row.get(column.name)?.as_str()?).ok()
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
