//! The two tables of a read model: loads and saves rows in the table of a generation, clears the other one, and
//! compares both.

use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;

use schemas::engine::RecordedEvent;
use serde::Serialize;
use serde_json::Value;
use store::{StoreError, TenantTransaction};
use uuid::Uuid;

use super::definition::table_at;
use super::error::ProjectionError;
use super::projection::{Changes, Projection, StoredRow, key};
use super::sql::{Bounds, Statements, compare_sql, delete_sql, nth_key_sql};

/// Maximum rows that one statement compares or deletes.
const CHUNK_ROWS_MAX: i64 = 10_000;
/// Maximum differences that are listed individually.
const DIFFERENCES_LISTED_MAX: usize = 20;

/// The tables of the read model `P`.
pub(crate) struct Tables<P> {
    names: [String; 2],
    statements: [Statements; 2],
    projection: PhantomData<P>,
}

/// A row that differs between the serving version and the rebuilt one. It contains no values, because rows hold
/// personal data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The row's key.
    pub id: Uuid,
    /// `missing` or `additional` in the new version, or `changed`.
    pub kind: &'static str,
    /// The columns that differ.
    pub columns: Vec<String>,
}

/// The differences between two versions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Differences {
    /// The number of rows that differ.
    pub count: u64,
    /// The first of them, at most 20.
    pub shown: Vec<Difference>,
}

impl Differences {
    fn add(&mut self, difference: Difference) {
        self.count += 1;
        if self.shown.len() < DIFFERENCES_LISTED_MAX {
            self.shown.push(difference);
        }
    }

    /// The union of two results.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.count += other.count;
        self.shown.extend(other.shown);
        self.shown.truncate(DIFFERENCES_LISTED_MAX);
        self
    }
}

impl<P: Projection> Tables<P> {
    /// The two tables that serve alternately.
    pub(crate) fn new() -> Self {
        Self::named([0, 1].map(|generation| table_at(P::MODEL, generation)))
    }

    /// Any two tables of the same shape.
    pub(crate) fn named(names: [String; 2]) -> Self {
        let statements = [&names[0], &names[1]].map(|name| Statements::of(P::MODEL, name));
        Self { names, statements, projection: PhantomData }
    }

    /// The table of a generation, then the other one.
    fn both(&self, generation: u64) -> [&str; 2] {
        let [even, odd] = &self.names;
        if generation.is_multiple_of(2) { [even, odd] } else { [odd, even] }
    }

    fn at(&self, generation: u64) -> &Statements {
        &self.statements[usize::from(!generation.is_multiple_of(2))]
    }

    /// Loads the rows that the events concern.
    pub(crate) async fn load(
        &self,
        transaction: &TenantTransaction,
        generation: u64,
        events: &[RecordedEvent],
    ) -> Result<HashMap<Uuid, StoredRow<P>>, StoreError> {
        let keys: HashSet<Uuid> = events.iter().filter_map(key::<P>).collect();
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let keys: Vec<Uuid> = keys.into_iter().collect();
        let load = &self.at(generation).load;
        let rows = transaction.query(load, &[&transaction.tenant().0, &keys]).await?;
        let read = |row: &store::sql::Row| {
            let row: StoredRow<P> =
                serde_json::from_str(row.get(1)).map_err(|error| corrupt(P::MODEL.table, &error))?;
            Ok::<_, StoreError>(row)
        };
        rows.iter().map(|row| Ok((row.get(0), read(row)?))).collect()
    }

    /// Writes the changes of a fold.
    pub(crate) async fn save(
        &self,
        transaction: &TenantTransaction,
        generation: u64,
        changes: Changes<StoredRow<P>>,
    ) -> Result<(), ProjectionError> {
        let tenant = transaction.tenant().0;
        let statements = self.at(generation);
        if !changes.upserts.is_empty() {
            let rows = serde_json::to_string(&changes.upserts).map_err(ProjectionError::Row)?;
            transaction.execute(&statements.upsert, &[&tenant, &rows]).await?;
        }
        if !changes.deletes.is_empty() {
            transaction.execute(&statements.delete, &[&tenant, &changes.deletes]).await?;
        }
        Ok(())
    }

    /// Deletes some of the tenant's rows. Returns the key to continue after; `None` if no rows are left.
    pub(crate) async fn clear_chunk(
        &self,
        transaction: &TenantTransaction,
        generation: u64,
        behind: Option<Uuid>,
    ) -> Result<Option<Uuid>, StoreError> {
        let sql = delete_sql(&table_at(P::MODEL, generation), behind.is_some());
        let tenant = transaction.tenant().0;
        let behind = behind.unwrap_or_default();
        let row = transaction.query_opt(&sql, &[&tenant, &behind, &CHUNK_ROWS_MAX]).await?;
        Ok(row.and_then(|row| row.get(0)))
    }

    /// Compares the rows of the given keys.
    pub(crate) async fn compare_keys(
        &self,
        transaction: &TenantTransaction,
        generation: u64,
        keys: &HashSet<Uuid>,
    ) -> Result<Differences, StoreError> {
        let mut differences = Differences::default();
        if keys.is_empty() {
            return Ok(differences);
        }
        let keys: Vec<Uuid> = keys.iter().copied().collect();
        let sql = compare_sql(self.both(generation), Bounds::Keys);
        for row in transaction.query(&sql, &[&transaction.tenant().0, &keys]).await? {
            differences.add(difference((row.get(0), row.get(1), row.get(2)))?);
        }
        Ok(differences)
    }

    /// Compares all rows, chunk by chunk, except those of the excluded keys. The transaction must read one snapshot.
    /// Returns `None` if `go_on` ended it early.
    pub(crate) async fn compare_all(
        &self,
        transaction: &TenantTransaction,
        generation: u64,
        left_out: &HashSet<Uuid>,
        may_continue: impl Fn() -> bool,
    ) -> Result<Option<Differences>, StoreError> {
        let mut differences = Differences::default();
        let mut behind: Option<Uuid> = None;
        loop {
            if !may_continue() {
                return Ok(None);
            }
            let (rows, end) = compare_some(transaction, self.both(generation), behind).await?;
            for row in rows.into_iter().filter(|(id, ..)| !left_out.contains(id)) {
                differences.add(difference(row)?);
            }
            match end {
                Some(end) => behind = Some(end),
                None => return Ok(Some(differences)),
            }
        }
    }
}

/// A row that differs: its key, and both versions as JSON.
pub(crate) type RowPair = (Uuid, Option<String>, Option<String>);

/// The rows that differ among the next keys of two tables after `behind`, and the key to continue after; `None` at the
/// end.
/// It reads at most a limited number of rows of each table.
pub(crate) async fn compare_some(
    transaction: &TenantTransaction,
    tables: [&str; 2],
    behind: Option<Uuid>,
) -> Result<(Vec<RowPair>, Option<Uuid>), StoreError> {
    let tenant = transaction.tenant().0;
    let low = behind.unwrap_or_default();
    let mut end: Option<Uuid> = None;
    for table in tables {
        let sql = nth_key_sql(table, behind.is_some());
        let nth: Option<Uuid> =
            transaction.query_opt(&sql, &[&tenant, &low, &CHUNK_ROWS_MAX]).await?.map(|row| row.get(0));
        end = end.into_iter().chain(nth).min();
    }
    let high = end.unwrap_or(Uuid::max());
    let sql = compare_sql(tables, Bounds::Range { from_start: behind.is_none() });
    let rows = transaction.query(&sql, &[&tenant, &low, &high]).await?;
    Ok((rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect(), end))
}

/// The difference between two versions of a row.
fn difference((id, old, new): RowPair) -> Result<Difference, StoreError> {
    let read = |text: Option<String>| -> Result<Option<Value>, StoreError> {
        text.map(|text| serde_json::from_str(&text).map_err(|error| corrupt("a comparison", &error)))
            .transpose()
    };
    let (old, new) = (read(old)?, read(new)?);
    let (kind, columns) = match (&old, &new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let differ = old.iter().filter(|(name, value)| new.get(*name) != Some(value));
            ("changed", differ.map(|(name, _)| name.clone()).collect())
        }
        (None, _) => ("additional", Vec::new()),
        _ => ("missing", Vec::new()),
    };
    Ok(Difference { id, kind, columns })
}

pub(crate) fn corrupt(table: &str, error: &serde_json::Error) -> StoreError {
    StoreError::Corrupt(format!("a row of {table} does not read ({:?} error)", error.classify()))
}
