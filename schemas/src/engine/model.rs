//! The description of a read model: its table, its filters and orders, and its type in GraphQL.

use std::marker::PhantomData;

use chrono::{DateTime, Utc};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use super::field::{Field, InputReader, Kind};
use crate::identity::scope::Scope;

/// The row of a read model without the columns that the engine maintains, written by `#[read_model]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no row of a read model",
    note = "a row is a struct with `#[read_model(...)]`"
)]
pub trait Row: Serialize + DeserializeOwned + Clone + PartialEq + Default + Send + Sync + 'static {
    /// Its description.
    const MODEL: &'static Model;
}

/// A read model.
#[derive(Debug)]
pub struct Model {
    /// The name of its checkpoint, such as `customers.v1`.
    pub name: &'static str,
    /// Its table, such as `customers_v1`.
    pub table: &'static str,
    /// Its type in GraphQL, such as `Customer`.
    pub object: &'static str,
    /// The GraphQL field that looks one up, such as `customer`.
    pub one: &'static str,
    /// The GraphQL field that lists them, such as `customers`.
    pub many: &'static str,
    /// Its doc comment.
    pub description: &'static str,
    /// The scope that reads all rows.
    pub visible_to: Scope,
    /// The column that lists are sorted by, unless the client says otherwise.
    pub order: &'static str,
    /// The column with the id of the user that owns the row, if users see their own rows.
    pub owner: Option<&'static str>,
    /// The columns of the row; `id`, `version` and `updated_at` are not among them.
    pub columns: &'static [Column],
}

/// How many rows have the same value in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selectivity {
    /// One index serves every order.
    Few,
    /// Each order needs an index of its own.
    Many,
}

/// A relation from a column to another row.
#[derive(Debug)]
pub struct Relation {
    /// The model of the other row.
    pub model: fn() -> &'static Model,
    /// The GraphQL field that shows it.
    pub field: &'static str,
    /// The other direction, if clients see it.
    pub back: Option<Back>,
}

/// The other direction of a relation: from a row to the rows that lead to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Back {
    /// The GraphQL field that shows it.
    pub field: &'static str,
    /// Whether at most one row leads to the same row. Else the field is a list.
    pub one: bool,
}

/// A column.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent properties")]
pub struct Column {
    /// Its name in Rust and SQL.
    pub name: &'static str,
    /// Its name in GraphQL.
    pub graphql_name: &'static str,
    /// Its doc comment, or that of its type.
    pub description: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Whether it may be null.
    pub optional: bool,
    /// Whether there is a filter for it, and how selective that is.
    pub filter: Option<Selectivity>,
    /// Whether there is a filter for the start of its text.
    pub prefix: bool,
    /// Whether lists may be sorted by it.
    pub order: bool,
    /// Whether there is a filter for a range of it.
    pub range: bool,
    /// The name of its filter in GraphQL.
    pub filter_name: &'static str,
    /// Reads the value of a filter, in its stored form.
    pub sought: fn(&mut InputReader, &Value) -> Option<Value>,
    /// Whether clients see it.
    pub visible: bool,
    /// The row that it leads to.
    pub relation: Option<Relation>,
}

/// Reads the value of a filter, in its stored form.
pub fn sought<T: Field + Serialize>(reader: &mut InputReader, value: &Value) -> Option<Value> {
    let value = T::read(reader, value)?;
    serde_json::to_value(value).ok()
}

const fn engine_column<T: Field + Serialize>(
    name: &'static str,
    graphql_name: &'static str,
    description: &'static str,
) -> Column {
    Column {
        name,
        graphql_name,
        description,
        kind: T::KIND,
        optional: false,
        filter: None,
        prefix: false,
        order: false,
        range: false,
        filter_name: graphql_name,
        sought: sought::<T>,
        visible: true,
        relation: None,
    }
}

/// The first column of every row.
pub static ID: Column = engine_column::<Uuid>("id", "id", "The id.");
/// The last columns of every row.
pub static LAST_COLUMNS: [Column; 2] = [
    engine_column::<u64>("version", "version", "The number of events of this aggregate."),
    engine_column::<DateTime<Utc>>("updated_at", "updatedAt", "When it was last changed."),
];

impl Model {
    /// All columns, in the order of the table.
    pub fn all_columns(&self) -> impl Iterator<Item = &'static Column> + use<> {
        std::iter::once(&ID).chain(self.columns).chain(&LAST_COLUMNS)
    }

    /// The column with this name.
    pub fn column(&self, name: &str) -> Option<&'static Column> {
        self.all_columns().find(|column| column.name == name)
    }

    /// The columns that lists may be sorted by.
    pub fn orders(&self) -> impl Iterator<Item = &'static Column> + use<> {
        self.columns.iter().filter(|column| column.order)
    }

    /// The columns that have a filter.
    pub fn filters(&self) -> impl Iterator<Item = &'static Column> + use<> {
        self.columns.iter().filter(|column| column.filter.is_some() || column.prefix || column.range)
    }

    /// The name without its version, such as `customers`.
    pub fn plain_name(&self) -> &'static str {
        self.name.rsplit_once(".v").map_or(self.name, |(plain, _)| plain)
    }
}

/// A column that rows are looked up by. A column without an index has no `Lookup`, so no code can look rows up by it.
pub struct Lookup<R, T> {
    /// The name of the column.
    pub column: &'static str,
    row: PhantomData<fn(T) -> R>,
}

impl<R, T> Lookup<R, T> {
    /// Called by `#[read_model]`.
    pub const fn new(column: &'static str) -> Self {
        Self { column, row: PhantomData }
    }
}
