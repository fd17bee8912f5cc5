//! Keyset pages over one read table. The texts of the statements depend only on which filters are given and on the
//! order, so they are few; values travel as parameters.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::value::Error as NameError;
use serde::de::{DeserializeOwned, IntoDeserializer};
use store::sql::{RawRow, RawRows, Read, Value};
use store::{ReadTable, StoreError, TenantStore};
use uuid::Uuid;

use super::cursor::{CursorScope, Place, SortKey};
use super::error::{QueryError, corrupt};
use super::page::{Page, PageRequest};

/// A value of a condition.
pub(crate) enum Parameter {
    /// `uuid`.
    Uuid(Uuid),
    /// `text`.
    Text(String),
    /// `bigint`.
    Number(i64),
    /// `timestamptz`.
    Time(DateTime<Utc>),
}

impl Parameter {
    fn value(&self) -> Value<'_> {
        match self {
            Self::Uuid(uuid) => Value::Uuid(*uuid),
            Self::Text(text) => Value::Text(text),
            Self::Number(number) => Value::Int8(*number),
            Self::Time(time) => Value::Timestamptz(*time),
        }
    }
}

impl From<Uuid> for Parameter {
    fn from(uuid: Uuid) -> Self {
        Self::Uuid(uuid)
    }
}

impl From<String> for Parameter {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Parameter {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Parameter {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<DateTime<Utc>> for Parameter {
    fn from(time: DateTime<Utc>) -> Self {
        Self::Time(time)
    }
}

/// What a list is made of.
pub(crate) struct List<R> {
    /// The read model, by the name of its checkpoint.
    pub(crate) projection: &'static str,
    /// Its tables.
    pub(crate) table: ReadTable,
    /// The columns that `read` wants.
    pub(crate) columns: &'static str,
    /// Reads a row.
    pub(crate) read: fn(RawRow<'_>) -> Result<R, StoreError>,
}

/// What a list is sorted by.
pub(crate) struct Order<R> {
    /// Its name in cursors.
    pub(crate) name: &'static str,
    /// The column.
    pub(crate) column: &'static str,
    pub(crate) descending: bool,
    /// The place of a row in this order.
    pub(crate) place: fn(&R) -> Place,
}

/// The conditions of a filter, each on an indexed column.
#[derive(Default)]
pub(crate) struct Conditions {
    sql: String,
    parameters: Vec<Parameter>,
}

impl Conditions {
    /// The condition that each statement starts with.
    pub(crate) fn of(tenant: &TenantStore) -> Self {
        let mut conditions = Self { sql: "tenant_id = $1".to_owned(), parameters: Vec::new() };
        conditions.parameters.push(tenant.id().0.into());
        conditions
    }

    /// `column operator value`.
    pub(crate) fn and(&mut self, column: &str, operator: &str, value: impl Into<Parameter>) {
        self.parameters.push(value.into());
        write!(self.sql, " and {column} {operator} ${}", self.parameters.len()).expect("writing to a string");
    }

    /// `column = text`.
    pub(crate) fn and_text(&mut self, column: &str, text: String) {
        if self.can_hold(&text) {
            self.and(column, "=", text);
        }
    }

    /// A text with a zero character is in no table: PostgreSQL refuses it even as a parameter.
    fn can_hold(&mut self, text: &str) -> bool {
        let can = !text.contains('\0');
        if !can {
            self.sql.push_str(" and false");
        }
        can
    }

    /// Texts that start with `prefix`, as a range: that uses the index whatever plan is chosen.
    pub(crate) fn and_starts_with(&mut self, column: &str, prefix: &str) {
        if !self.can_hold(prefix) {
            return;
        }
        self.and(column, ">=", prefix.to_owned());
        if let Some(end) = behind_prefix(prefix) {
            self.and(column, "<", end);
        }
    }

    fn push(&mut self, value: impl Into<Parameter>) -> usize {
        self.parameters.push(value.into());
        self.parameters.len()
    }

    /// Rows whose place compares so to the given one.
    fn and_place(&mut self, column: &str, operator: &str, place: &Place) {
        let key = match &place.key {
            SortKey::Time(time) => self.push(*time),
            SortKey::Text(text) => self.push(text.clone()),
        };
        let id = self.push(place.id);
        write!(self.sql, " and ({column}, id) {operator} (${key}, ${id})").expect("writing to a string");
    }
}

impl<R> List<R> {
    /// One page.
    pub(crate) async fn page(
        &self,
        tenant: &TenantStore,
        filter: &impl Serialize,
        conditions: impl Fn() -> Conditions,
        order: Order<R>,
        request: PageRequest,
    ) -> Result<Page<R>, QueryError> {
        let filter = serde_json::to_vec(filter)
            .map_err(|error| StoreError::Corrupt(format!("a filter does not serialise: {error}")))?;
        let scope = CursorScope::new(tenant.store().key(), tenant.id(), self.table.name, order.name, filter);
        let (forward, limit, cursor) = match request {
            PageRequest::Forward { first, after } => (true, first as usize, after),
            PageRequest::Backward { last, before } => (false, last as usize, before),
        };
        let start = cursor.as_deref().map(|cursor| scope.decode(cursor)).transpose()?;

        // Towards higher keys: forward through an ascending list, or backward through a descending one.
        let upward = forward != order.descending;
        let mut page = conditions();
        if let Some(start) = &start {
            page.and_place(order.column, if upward { ">" } else { "<" }, start);
        }
        let page = self.select(page, &order, upward, limit + 1);
        // On the side that the page was entered from there is something exactly where a cursor was given and rows stand
        // at or beyond it.
        let behind = start.map(|start| {
            let mut other_side = conditions();
            other_side.and_place(order.column, if upward { "<=" } else { ">=" }, &start);
            self.select(other_side, &order, !upward, 1)
        });
        let selects: Vec<Select> = std::iter::once(page).chain(behind).collect();
        let mut found = self.read(tenant, &selects).await?.into_iter();
        let rows = found.next();
        let mut rows = rows.iter().flat_map(RawRows::iter).map(self.read).collect::<Result<Vec<R>, _>>()?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        if !forward {
            rows.reverse();
        }
        let behind = found.next().is_some_and(|rows| !rows.is_empty());
        let (has_next, has_previous) = if forward { (more, behind) } else { (behind, more) };
        Ok(Page { rows, has_next, has_previous, scope, place: order.place })
    }

    /// The limit is part of the text. As a parameter it would be unknown to a generic plan, which PostgreSQL then expects
    /// to read a tenth of the table; so it would make a plan for each execution.
    fn select(&self, conditions: Conditions, order: &Order<R>, upward: bool, limit: usize) -> Select {
        let (column, direction) = (order.column, if upward { "asc" } else { "desc" });
        let behind_table =
            format!("where {} order by {column} {direction}, id {direction} limit {limit}", conditions.sql);
        Select { columns: self.columns, behind_table, parameters: conditions.parameters }
    }

    /// How many rows there are.
    pub(crate) async fn count(
        &self,
        tenant: &TenantStore,
        conditions: Conditions,
    ) -> Result<u64, StoreError> {
        let select = Select {
            columns: "count(*)",
            behind_table: format!("where {}", conditions.sql),
            parameters: conditions.parameters,
        };
        let rows = self.read(tenant, &[select]).await?;
        let count = rows.iter().flat_map(RawRows::iter).next().map(|row| row.get::<i64>(0)).transpose();
        let count = count.map_err(|error| corrupt(self.table.name, error))?;
        Ok(count.unwrap_or(0) as u64)
    }

    /// The row with the lowest id among those that meet the conditions.
    pub(crate) async fn one(
        &self,
        tenant: &TenantStore,
        conditions: Conditions,
    ) -> Result<Option<R>, StoreError> {
        let select = Select {
            columns: self.columns,
            behind_table: format!("where {} order by id limit 1", conditions.sql),
            parameters: conditions.parameters,
        };
        let rows = self.read(tenant, &[select]).await?;
        rows.iter().flat_map(RawRows::iter).next().map(self.read).transpose()
    }

    /// At most `limit` rows in the order of their ids, and the id behind which the next page starts; none on the last page.
    pub(crate) async fn by_id(
        &self,
        tenant: &TenantStore,
        mut conditions: Conditions,
        after: Option<Uuid>,
        limit: usize,
        id: fn(&R) -> Uuid,
    ) -> Result<(Vec<R>, Option<Uuid>), StoreError> {
        if let Some(after) = after {
            conditions.and("id", ">", after);
        }
        let more = limit + 1;
        let select = Select {
            columns: self.columns,
            behind_table: format!("where {} order by id limit {more}", conditions.sql),
            parameters: conditions.parameters,
        };
        let rows = self.read(tenant, &[select]).await?;
        let mut rows = rows.iter().flat_map(RawRows::iter).map(self.read).collect::<Result<Vec<R>, _>>()?;
        let is_last = rows.len() <= limit;
        rows.truncate(limit);
        let next = rows.last().map(id).filter(|_| !is_last);
        Ok((rows, next))
    }

    /// Runs the statements in one snapshot, on the table that serves in it. Which one that is gets asked for along with
    /// them, so that it costs no wait: they run again where the guess was wrong.
    async fn read(&self, tenant: &TenantStore, selects: &[Select]) -> Result<Vec<RawRows>, StoreError> {
        let values: Vec<Vec<Value<'_>>> =
            selects.iter().map(|select| select.parameters.iter().map(Parameter::value).collect()).collect();
        let mut guess = tenant.cached_generation(self.table.name);
        loop {
            let table = self.table.at(guess);
            let texts: Vec<String> = selects
                .iter()
                .map(|select| format!("select {} from {table} {}", select.columns, select.behind_table))
                .collect();
            let reads: Vec<Read<'_>> =
                texts.iter().zip(&values).map(|(sql, values)| Read { sql, values }).collect();
            let (generation, rows) = tenant.read_with_generation(self.projection, &reads).await?;
            if generation == guess {
                return Ok(rows);
            }
            tenant.cache_generation(self.table.name, generation);
            guess = generation;
        }
    }
}

/// A statement, all but the table.
struct Select {
    columns: &'static str,
    behind_table: String,
    parameters: Vec<Parameter>,
}

/// The value of an enum that is stored by its name.
pub(crate) fn named<T: DeserializeOwned>(name: &str) -> Result<T, NameError> {
    T::deserialize(name.into_deserializer())
}

/// The lowest text above all that start with `prefix`, by bytes; `None` where there is none.
fn behind_prefix(prefix: &str) -> Option<String> {
    let mut kept: Vec<char> = prefix.chars().collect();
    while let Some(last) = kept.pop() {
        // The next scalar value; surrogates are none.
        if let Some(next) = ((last as u32 + 1)..=0x0010_FFFF).find_map(char::from_u32) {
            kept.push(next);
            return Some(kept.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_a_prefix_is_above_all_that_start_with_it() {
        for (prefix, behind) in [
            ("Ad", Some("Ae")),
            ("a\u{D7FF}", Some("a\u{E000}")),
            ("a\u{10FFFF}", Some("b")),
            ("\u{10FFFF}", None),
            ("", None),
        ] {
            assert_eq!(behind_prefix(prefix).as_deref(), behind, "{prefix}");
        }
        let behind = behind_prefix("Ad").expect("there is one");
        assert!("Ad\u{10FFFF}\u{10FFFF}" < behind.as_str());
    }
}
