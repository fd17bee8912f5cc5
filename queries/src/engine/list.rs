//! Keyset pages over one read table. The texts of the statements depend only on which filters are given and on the
//! order, so they are few; values travel as parameters.

use std::fmt::Write;

use serde::Serialize;
use serde::de::value::Error as NameError;
use serde::de::{DeserializeOwned, IntoDeserializer};
use store::sql::{Row, ToSql};
use store::{StoreError, TenantStore, TenantTransaction};

use super::cursor::{CursorScope, Place, SortKey};
use super::error::QueryError;
use super::page::{Page, PageRequest};

type Parameter = Box<dyn ToSql + Sync + Send>;

/// What a list is made of.
pub(crate) struct List<R> {
    /// The table.
    pub(crate) table: &'static str,
    /// The columns that `read` wants.
    pub(crate) columns: &'static str,
    /// Reads a row.
    pub(crate) read: fn(&Row) -> Result<R, StoreError>,
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
        conditions.parameters.push(Box::new(tenant.id().0));
        conditions
    }

    /// `column operator value`.
    pub(crate) fn and(&mut self, column: &str, operator: &str, value: impl ToSql + Sync + Send + 'static) {
        self.parameters.push(Box::new(value));
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

    fn push(&mut self, value: impl ToSql + Sync + Send + 'static) -> usize {
        self.parameters.push(Box::new(value));
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

    fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.parameters.iter().map(|parameter| parameter.as_ref() as &(dyn ToSql + Sync)).collect()
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
        let scope = CursorScope::new(tenant.store().key(), tenant.id(), self.table, order.name, filter);
        let (forward, limit, cursor) = match request {
            PageRequest::Forward { first, after } => (true, first as usize, after),
            PageRequest::Backward { last, before } => (false, last as usize, before),
        };
        let start = cursor.as_deref().map(|cursor| scope.decode(cursor)).transpose()?;

        let transaction = tenant.begin().await?;
        // Towards higher keys: forward through an ascending list, or backward through a descending one.
        let upward = forward != order.descending;
        let mut page = conditions();
        if let Some(start) = &start {
            page.and_place(order.column, if upward { ">" } else { "<" }, start);
        }
        let rows = self.select(&transaction, page, &order, upward, limit + 1).await?;
        let mut rows = rows.iter().map(self.read).collect::<Result<Vec<R>, _>>()?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        if !forward {
            rows.reverse();
        }
        // On the side that the page was entered from there is something exactly where a cursor was given and rows stand
        // at or beyond it.
        let behind = match &start {
            Some(start) => {
                let mut other_side = conditions();
                other_side.and_place(order.column, if upward { "<=" } else { ">=" }, start);
                let found = self.select(&transaction, other_side, &order, !upward, 1).await?;
                !found.is_empty()
            }
            None => false,
        };
        transaction.commit().await?;
        let (has_next, has_previous) = if forward { (more, behind) } else { (behind, more) };
        Ok(Page { rows, has_next, has_previous, scope, place: order.place })
    }

    async fn select(
        &self,
        transaction: &TenantTransaction,
        mut conditions: Conditions,
        order: &Order<R>,
        upward: bool,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let limit = conditions.push(limit as i64);
        let (Self { table, columns, .. }, Conditions { sql, .. }) = (self, &conditions);
        let (column, direction) = (order.column, if upward { "asc" } else { "desc" });
        let statement = format!(
            "select {columns} from {table} where {sql} order by {column} {direction}, id {direction} limit ${limit}"
        );
        transaction.query(&statement, &conditions.parameters()).await
    }

    /// How many rows there are.
    pub(crate) async fn count(
        &self,
        tenant: &TenantStore,
        conditions: &Conditions,
    ) -> Result<u64, StoreError> {
        let statement = format!("select count(*) from {} where {}", self.table, conditions.sql);
        let transaction = tenant.begin().await?;
        let row = transaction.query_opt(&statement, &conditions.parameters()).await?;
        transaction.commit().await?;
        Ok(row.map_or(0, |row| row.get::<_, i64>(0) as u64))
    }

    /// The row with the lowest id among those that meet the conditions.
    pub(crate) async fn one(
        &self,
        tenant: &TenantStore,
        conditions: &Conditions,
    ) -> Result<Option<R>, StoreError> {
        let Self { table, columns, read } = self;
        let statement = format!("select {columns} from {table} where {} order by id limit 1", conditions.sql);
        let transaction = tenant.begin().await?;
        let row = transaction.query_opt(&statement, &conditions.parameters()).await?;
        transaction.commit().await?;
        row.as_ref().map(read).transpose()
    }
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
