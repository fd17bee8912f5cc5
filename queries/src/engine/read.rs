//! Runs statements on the table of a read model that serves.

use projections::{Record, StoredRow, table_at};
use schemas::engine::{Lookup, Model, Row};
use serde::Serialize;
use serde_json::Value as Json;
use store::sql::{RawRows, Read, Value};
use store::{StoreError, TenantStore};
use uuid::Uuid;

use super::cursor::Place;
use super::error::{QueryError, corrupt};
use super::select::{Select, Statement};
use super::value::{Parameter, json};

/// The rows of one statement. An empty default stands for no rows.
#[derive(Default)]
pub struct Rows(Option<RawRows>);

impl Rows {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, RawRows::len)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A field of a row in PostgreSQL's binary format. `None` for a null, and if there is no such row.
    pub fn field_of(&self, row: usize, column: usize) -> Option<&[u8]> {
        self.0.as_ref().filter(|rows| row < rows.len())?.row(row).field(column)
    }

    /// The number in the first column of a row.
    pub(crate) fn number(&self, row: usize) -> Option<u64> {
        self.number_of(row, 0)
    }

    /// The rows, which have all columns of the model.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if a field is not of its kind.
    pub fn records(&self, model: &Model) -> Result<Vec<Record>, StoreError> {
        (0..self.len()).map(|row| self.record(model, row)).collect()
    }

    /// The number in a column of a row.
    pub(crate) fn number_of(&self, row: usize, column: usize) -> Option<u64> {
        let bytes = self.field_of(row, column)?;
        u64::try_from(i64::from_be_bytes(bytes.try_into().ok()?)).ok()
    }

    /// A row of all columns of the model.
    pub(crate) fn record(&self, model: &Model, row: usize) -> Result<Record, StoreError> {
        let mut record = Record::new();
        for (index, column) in model.all_columns().enumerate() {
            let value = json(&column.kind, self.field_of(row, index));
            let value = value.ok_or_else(|| corrupt(model.table, format!("column {}", column.name)))?;
            record.insert(column.name.to_owned(), value);
        }
        Ok(record)
    }
}

/// All columns of a model, in the order of [`Model::all_columns`].
pub(crate) fn all_columns(model: &Model) -> String {
    model.all_columns().map(|column| column.name).collect::<Vec<_>>().join(", ")
}

/// Runs the statements in one round trip and one snapshot, on the table that serves in it. The table is looked up along
/// with them; they run again if the cached table was wrong.
pub(crate) async fn read_selected(
    tenant: &TenantStore,
    model: &'static Model,
    statements: &[Statement],
) -> Result<Vec<Rows>, StoreError> {
    let values: Vec<Vec<Value<'_>>> = statements.iter().map(Statement::values).collect();
    let mut generation = tenant.cached_generation(model.table);
    loop {
        let table = table_at(model, generation);
        let texts: Vec<String> = statements
            .iter()
            .map(|statement| format!("{} {table} {}", statement.before_table, statement.behind_table))
            .collect();
        let reads: Vec<Read<'_>> =
            texts.iter().zip(&values).map(|(sql, values)| Read { sql, values }).collect();
        let (found, rows) = tenant.read_with_generation(model.name, &reads).await?;
        if found == generation {
            return Ok(rows.into_iter().map(|rows| Rows(Some(rows))).collect());
        }
        tenant.cache_generation(model.table, found);
        generation = found;
    }
}

impl Select {
    /// The place of a row in the list; `None` if the row lacks the columns for it.
    pub fn place(&self, row: &Record) -> Option<Place> {
        let key = Parameter::of(&self.order.kind, row.get(self.order.name)?)?;
        Some(Place { key, id: Uuid::parse_str(row.get("id")?.as_str()?).ok()? })
    }

    /// The number of rows.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    pub async fn count(&self, tenant: &TenantStore) -> Result<u64, StoreError> {
        let rows = read_selected(tenant, self.model, &[self.count_of(tenant.id().0)]).await?;
        Ok(rows.first().and_then(|rows| rows.number(0)).unwrap_or(0))
    }

    /// The row with the lowest id.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    pub async fn one(&self, tenant: &TenantStore) -> Result<Option<Record>, StoreError> {
        Ok(self.page_by_id(tenant, None, 1).await?.0.pop())
    }

    /// The row with the lowest id, with these columns.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    pub async fn one_row(&self, tenant: &TenantStore, columns: &str) -> Result<Rows, StoreError> {
        let statement = self.by_id(tenant.id().0, columns, None, 1);
        Ok(read_selected(tenant, self.model, &[statement]).await?.pop().unwrap_or_default())
    }

    /// At most `limit` rows in the order of their ids, after an id, and the id to continue after; `None` at the end.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    pub async fn page_by_id(
        &self,
        tenant: &TenantStore,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<(Vec<Record>, Option<Uuid>), StoreError> {
        let statement = self.by_id(tenant.id().0, &all_columns(self.model), after, limit + 1);
        let rows = read_selected(tenant, self.model, &[statement]).await?.pop().unwrap_or_default();
        let indexes = 0..rows.len().min(limit);
        let records: Vec<Record> =
            indexes.map(|index| rows.record(self.model, index)).collect::<Result<_, _>>()?;
        let last = records.last().and_then(|row| Uuid::parse_str(row.get("id")?.as_str()?).ok());
        Ok((records, last.filter(|_| rows.len() > limit)))
    }
}

/// The row with this id, with all columns.
///
/// # Errors
/// [`StoreError`] if the store failed.
pub async fn get(
    tenant: &TenantStore,
    model: &'static Model,
    id: Uuid,
) -> Result<Option<Record>, StoreError> {
    Select::of(model).and(&schemas::engine::model::ID, Parameter::Uuid(id)).one(tenant).await
}

/// The typed row with this value in a column that has an index; the one with the lowest id if there are several.
///
/// # Errors
/// [`QueryError::Store`] if the store failed.
pub async fn find<R: Row, T: Serialize>(
    tenant: &TenantStore,
    lookup: Lookup<R, T>,
    value: &T,
) -> Result<Option<StoredRow<R>>, QueryError> {
    let column = R::MODEL.column(lookup.column).expect("the attribute names its own columns");
    let stored = serde_json::to_value(value).map_err(|error| corrupt(R::MODEL.table, error))?;
    let Some(value) = Parameter::of(&column.kind, &stored) else { return Ok(None) };
    match Select::of(R::MODEL).and(column, value).one(tenant).await? {
        Some(record) => Ok(Some(entry(record)?)),
        None => Ok(None),
    }
}

/// A row as its type.
///
/// # Errors
/// [`StoreError::Corrupt`] if the row is not of this type.
pub fn entry<R: Row>(record: Record) -> Result<StoredRow<R>, StoreError> {
    serde_json::from_value(Json::Object(record)).map_err(|error| corrupt(R::MODEL.table, error))
}
