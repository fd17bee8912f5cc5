//! Statements over one read model. Their texts depend on the filters that are given, the order, the columns and a few
//! limits; values are parameters. A connection keeps the texts that were used last prepared.

use std::fmt::Write;

use schemas::engine::{Column, Input, InputReader, Model};
use serde_json::Value as Json;
use store::sql::Value;
use uuid::Uuid;

use super::cursor::Place;
use super::error::QueryError;
use super::value::Parameter;

/// How a column is compared.
#[derive(Debug, Clone, PartialEq)]
pub enum Comparison {
    /// The column is the value.
    Is(Parameter),
    /// The text of the column starts with this one.
    StartsWith(String),
    /// The column is not below the value.
    From(Parameter),
    /// The column is below the value.
    Before(Parameter),
    /// No row meets the condition.
    Never,
}

/// A condition on a column with an index.
#[derive(Debug, Clone)]
pub struct Condition {
    /// The column.
    pub column: &'static Column,
    /// The comparison.
    pub comparison: Comparison,
}

/// Rows of a read model: conditions, and an order.
#[derive(Debug, Clone)]
pub struct Select {
    /// The read model.
    pub model: &'static Model,
    /// Conditions that must all be met.
    pub conditions: Vec<Condition>,
    /// The column of the order. Rows with the same value are in the order of their ids.
    pub order: &'static Column,
    /// Whether the order is descending.
    pub descending: bool,
}

/// The text of a statement around the name of its table, and its values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Statement {
    pub(crate) before_table: String,
    pub(crate) behind_table: String,
    pub(crate) values: Vec<Parameter>,
    /// The keys of the parents: the last value, if there are parents.
    pub(crate) keys: Option<Vec<Uuid>>,
}

impl Statement {
    fn of(columns: &str, behind_table: String, values: Vec<Parameter>) -> Self {
        Self { before_table: format!("select {columns} from"), behind_table, values, keys: None }
    }

    /// The values of the parameters.
    pub(crate) fn values(&self) -> Vec<Value<'_>> {
        let keys = self.keys.iter().map(|keys| Value::UuidArray(keys));
        self.values.iter().map(Parameter::value).chain(keys).collect()
    }
}

impl Select {
    /// All rows, in the default order of the read model.
    pub fn of(model: &'static Model) -> Self {
        let order = model.column(model.order).expect("the attribute has checked the order");
        Self { model, conditions: Vec::new(), order, descending: false }
    }

    /// Adds the conditions of a client's filter.
    ///
    /// # Errors
    /// [`QueryError::Filter`] if a value of the filter is invalid.
    pub fn filtered(mut self, filter: &Input) -> Result<Self, QueryError> {
        let mut reader = InputReader::default();
        for column in self.model.filters() {
            let Some(given) = filter.get(column.filter_name).filter(|given| !given.is_null()) else {
                continue;
            };
            if column.range {
                for (name, bound) in
                    [("from", Comparison::From as fn(_) -> _), ("before", Comparison::Before)]
                {
                    if let Some(given) = given.get(name).filter(|given| !given.is_null()) {
                        let comparison = comparison(column, &mut reader, given, bound)?;
                        self.conditions.push(Condition { column, comparison });
                    }
                }
                continue;
            }
            let comparison = match comparison(column, &mut reader, given, Comparison::Is)? {
                Comparison::Is(Parameter::Text(text)) if column.prefix => Comparison::StartsWith(text),
                other => other,
            };
            self.conditions.push(Condition { column, comparison });
        }
        Ok(self)
    }

    /// Sorts by what a client names, such as `NAME_DESC`.
    #[must_use]
    pub fn ordered(mut self, name: &str) -> Self {
        let (column, direction) = name.rsplit_once('_').unwrap_or((name, "ASC"));
        let named = self.model.orders().find(|order| order.name.eq_ignore_ascii_case(column));
        self.order = named.unwrap_or(self.order);
        self.descending = direction == "DESC";
        self
    }

    /// Adds the condition that a column has a value.
    #[must_use]
    pub fn and(mut self, column: &'static Column, value: Parameter) -> Self {
        self.conditions.push(Condition { column, comparison: Comparison::Is(value) });
        self
    }

    /// What a cursor is valid for besides tenant and read model: conditions, and order.
    pub(crate) fn scope(&self) -> String {
        let direction = if self.descending { "desc" } else { "asc" };
        format!("{} {direction} {:?}", self.order.name, self.conditions.iter().map(shown).collect::<Vec<_>>())
    }

    pub(crate) fn conditions(&self, tenant: Uuid) -> (String, Vec<Parameter>) {
        let mut values = vec![Parameter::Uuid(tenant)];
        (self.conditions_into(&mut values), values)
    }

    /// The conditions, whose values are added to those that there are. The first of these is the tenant.
    pub(crate) fn conditions_into(&self, values: &mut Vec<Parameter>) -> String {
        let mut sql = "tenant_id = $1".to_owned();
        for Condition { column, comparison } in &self.conditions {
            let mut compare = |operator: &str, value: Parameter| {
                values.push(value);
                write!(sql, " and {} {operator} ${}", column.name, values.len())
                    .expect("writing to a string");
            };
            match comparison {
                Comparison::Is(value) => compare("=", value.clone()),
                Comparison::From(value) => compare(">=", value.clone()),
                Comparison::Before(value) => compare("<", value.clone()),
                // As a range, which uses the index whatever plan is chosen.
                Comparison::StartsWith(prefix) => {
                    compare(">=", Parameter::Text(prefix.clone()));
                    if let Some(end) = after_prefix(prefix) {
                        compare("<", Parameter::Text(end));
                    }
                }
                Comparison::Never => sql.push_str(" and false"),
            }
        }
        sql
    }

    // The limit is part of the text. As a parameter it would be unknown to a generic plan, which PostgreSQL then expects
    // to read a tenth of the table; so it would make a plan for each execution.

    /// At most `limit` rows from a place on. `upward`: towards higher keys. `inclusive`: with the row at the place.
    pub(crate) fn rows(
        &self,
        tenant: Uuid,
        columns: &str,
        from: Option<(&Place, bool)>,
        upward: bool,
        limit: usize,
    ) -> Statement {
        let (mut sql, mut values) = self.conditions(tenant);
        let order = self.order.name;
        if let Some((place, inclusive)) = from {
            let operator = match (upward, inclusive) {
                (true, false) => ">",
                (true, true) => ">=",
                (false, false) => "<",
                (false, true) => "<=",
            };
            values.extend([place.key.clone(), Parameter::Uuid(place.id)]);
            write!(sql, " and ({order}, id) {operator} (${}, ${})", values.len() - 1, values.len())
                .expect("writing to a string");
        }
        let direction = if upward { "asc" } else { "desc" };
        let behind_table = format!("where {sql} order by {order} {direction}, id {direction} limit {limit}");
        Statement::of(columns, behind_table, values)
    }

    /// The number of rows.
    pub(crate) fn count_of(&self, tenant: Uuid) -> Statement {
        let (sql, values) = self.conditions(tenant);
        Statement::of("count(*)", format!("where {sql}"), values)
    }

    /// At most `limit` rows in the order of their ids, after an id.
    pub(crate) fn by_id(&self, tenant: Uuid, columns: &str, after: Option<Uuid>, limit: usize) -> Statement {
        let (mut sql, mut values) = self.conditions(tenant);
        if let Some(after) = after {
            values.push(Parameter::Uuid(after));
            write!(sql, " and id > ${}", values.len()).expect("writing to a string");
        }
        let behind_table = format!("where {sql} order by id limit {limit}");
        Statement::of(columns, behind_table, values)
    }
}

/// The comparison with what a client seeks.
fn comparison(
    column: &'static Column,
    reader: &mut InputReader,
    given: &Json,
    compare: fn(Parameter) -> Comparison,
) -> Result<Comparison, QueryError> {
    let Some(stored) = (column.sought)(reader, given) else {
        let message = reader.errors.pop().map_or_else(String::new, |error| error.message);
        return Err(QueryError::Filter(format!("filter.{} {message}", column.filter_name)));
    };
    Ok(Parameter::of(&column.kind, &stored).map_or(Comparison::Never, compare))
}

fn shown(condition: &Condition) -> (&'static str, &Comparison) {
    (condition.column.name, &condition.comparison)
}

/// The lowest text above all texts that start with `prefix`, by bytes; `None` if there is none.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut kept: Vec<char> = prefix.chars().collect();
    while let Some(last) = kept.pop() {
        // The next scalar value. Surrogates are none.
        if let Some(next) = ((last as u32 + 1)..=0x0010_FFFF).find_map(char::from_u32) {
            kept.push(next);
            return Some(kept.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use projections::CustomerRow;
    use schemas::engine::Row;
    use serde_json::json;

    use super::*;

    fn filtered(filter: Json) -> Result<Select, QueryError> {
        let Json::Object(filter) = filter else { panic!("a filter is an object") };
        Select::of(CustomerRow::MODEL).filtered(&filter)
    }

    #[test]
    fn filters_become_conditions_on_their_columns() {
        let select =
            filtered(json!({"status": "ACTIVE", "name": "Ad", "email": " ADA@example.com ", "userId": null}));
        let statement =
            select.expect("a filter").ordered("NAME_DESC").rows(Uuid::nil(), "id", None, false, 5);
        assert_eq!(
            statement.behind_table,
            "where tenant_id = $1 and name >= $2 and name < $3 and email_key = $4 and status = $5 \
             order by name desc, id desc limit 5"
        );
        let texts: Vec<&str> = statement
            .values
            .iter()
            .filter_map(|value| match value {
                Parameter::Text(text) => Some(text.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(texts, ["Ad", "Ae", "ada@example.com", "active"]);
    }

    #[test]
    fn a_filter_that_no_row_meets_selects_nothing() {
        let select = filtered(json!({"email": "a\0b@example.com"})).expect("a filter");
        assert_eq!(select.count_of(Uuid::nil()).behind_table, "where tenant_id = $1 and false");
    }

    #[test]
    fn an_invalid_value_names_the_filter() {
        let refused = filtered(json!({"userId": "x"})).expect_err("no UUID");
        assert_eq!(refused.to_string(), "filter.userId must be a UUID");
    }

    #[test]
    fn what_is_after_a_prefix_is_above_all_that_start_with_it() {
        for (prefix, after) in [
            ("Ad", Some("Ae")),
            ("a\u{D7FF}", Some("a\u{E000}")),
            ("a\u{10FFFF}", Some("b")),
            ("\u{10FFFF}", None),
            ("", None),
        ] {
            assert_eq!(after_prefix(prefix).as_deref(), after, "{prefix}");
        }
        let after = after_prefix("Ad").expect("there is one");
        assert!("Ad\u{10FFFF}\u{10FFFF}" < after.as_str());
    }
}
