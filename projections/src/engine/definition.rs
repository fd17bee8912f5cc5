//! The table and the indexes of a read model, derived from its description.
//!
//! Every filter and every order of a read model has an index, so a filter without an index cannot be written.

use schemas::engine::{Column, Kind, Model, Selectivity};
use store::ReadTable;

/// The table of a read model.
pub fn read_table(model: &Model) -> ReadTable {
    let columns: Vec<String> = model.all_columns().map(definition).collect();
    ReadTable { name: model.table, columns: columns.join(", "), key: "id", indexes: indexes(model) }
}

/// The name of the table of a generation.
pub fn table_at(model: &Model, generation: u64) -> String {
    store::read_table_at(model.table, generation)
}

fn definition(column: &Column) -> String {
    let null = if column.optional { "" } else { " not null" };
    format!("{} {}{null}", column.name, sql_type(&column.kind))
}

/// The SQL type of a kind. Texts are compared by their bytes.
fn sql_type(kind: &Kind) -> &'static str {
    match kind {
        Kind::Id => "uuid",
        Kind::Text | Kind::Enumeration(_) => "text collate \"C\"",
        Kind::Boolean => "boolean",
        Kind::Int32 => "integer",
        Kind::Unsigned64 | Kind::Signed64 => "bigint",
        Kind::Date => "date",
        Kind::Timestamp => "timestamptz",
        Kind::List(Kind::Text | Kind::Enumeration(_)) => "text[]",
        Kind::List(Kind::Id) => "uuid[]",
        Kind::ValueObject(_) | Kind::List(_) => "jsonb",
    }
}

/// The columns of each index; `tenant_id` is prepended.
pub fn indexes(model: &Model) -> Vec<String> {
    let orders: Vec<_> = model.orders().collect();
    let mut indexes: Vec<String> = orders.iter().map(|order| format!("{}, id", order.name)).collect();
    for column in model.filters() {
        let name = column.name;
        let of_column = match column.filter {
            Some(Selectivity::Many) => {
                orders.iter().map(|order| format!("{name}, {}, id", order.name)).collect()
            }
            _ => vec![format!("{name}, id")],
        };
        for index in of_column {
            if !indexes.contains(&index) {
                indexes.push(index);
            }
        }
    }
    indexes
}

#[cfg(test)]
mod tests {
    use schemas::engine::Row;

    use super::*;
    use crate::{CustomerRow, UserRow};

    #[test]
    fn every_filter_and_order_of_customers_has_an_index() {
        let expected = [
            "name, id",
            "registered_at, id",
            "user_id, id",
            "email_key, id",
            "status, name, id",
            "status, registered_at, id",
        ];
        assert_eq!(indexes(CustomerRow::MODEL), expected);
    }

    #[test]
    fn a_table_has_the_columns_of_the_row_and_those_of_the_engine() {
        assert_eq!(
            read_table(UserRow::MODEL).columns,
            "id uuid not null, email text collate \"C\" not null, email_key text collate \"C\" not null, \
             name text collate \"C\" not null, roles text[] not null, status text collate \"C\" not null, \
             erased boolean not null, registered_at timestamptz not null, version bigint not null, \
             updated_at timestamptz not null"
        );
    }
}
