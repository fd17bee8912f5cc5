//! The SQL of a read model, generated from its table. Rows are passed as JSON, so that one statement loads or writes
//! any
//! number of rows of any type.

use std::fmt::Write;

use schemas::engine::Model;

/// The three statements for one table of a read model. Parameter 1 is the tenant.
pub(crate) struct Statements {
    /// Parameter 2: the keys.
    pub(crate) load: String,
    /// Parameter 2: the rows, a JSON array as text.
    pub(crate) upsert: String,
    /// Parameter 2: the keys.
    pub(crate) delete: String,
}

impl Statements {
    pub(crate) fn of(model: &Model, name: &str) -> Self {
        let mut listed = String::new();
        let mut selected = String::new();
        let mut updated = String::new();
        for column in model.all_columns().map(|column| column.name) {
            write!(listed, ", {column}").expect("writing to a string does not fail");
            write!(selected, ", r.{column}").expect("writing to a string does not fail");
            if column != "id" {
                let comma = if updated.is_empty() { "" } else { ", " };
                write!(updated, "{comma}{column} = excluded.{column}")
                    .expect("writing to a string does not fail");
            }
        }
        Self {
            load: format!(
                "select id, row_to_json(t)::text from {name} t where tenant_id = $1 and id = any($2)"
            ),
            upsert: format!(
                "insert into {name} (tenant_id{listed}) \
                 select $1::uuid{selected} from json_populate_recordset(null::{name}, $2::text::json) r \
                 on conflict (tenant_id, id) do update set {updated}"
            ),
            delete: format!("delete from {name} where tenant_id = $1 and id = any($2)"),
        }
    }
}

/// Which rows to compare.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bounds {
    /// Parameter 2: the keys.
    Keys,
    /// Parameters 2 and 3: the key before the first and the last one.
    Range {
        /// The first parameter is ignored.
        from_start: bool,
    },
}

/// The rows that differ between two tables: key, and both rows as JSON. Parameter 1: the tenant.
pub(crate) fn compare_sql(tables: [&str; 2], bounds: Bounds) -> String {
    let condition = match bounds {
        Bounds::Keys => "id = any($2::uuid[])",
        // The parameter is mentioned so that every statement has the same number of them.
        Bounds::Range { from_start: true } => "$2::uuid is not null and id <= $3::uuid",
        Bounds::Range { from_start: false } => "id > $2::uuid and id <= $3::uuid",
    };
    let [old, new] =
        tables.map(|table| format!("(select * from {table} where tenant_id = $1 and {condition})"));
    format!(
        "select coalesce(o.id, n.id), row_to_json(o)::text, row_to_json(n)::text \
         from {old} o full join {new} n on n.id = o.id \
         where o.id is null or n.id is null or (o.*) is distinct from (n.*) order by 1"
    )
}

/// Selects `$3` rows after key `$2`, with their keys, ordered by key.
pub(crate) fn page_sql(table: &str, behind: bool) -> String {
    let condition = if behind { "id > $2::uuid" } else { "$2::uuid is not null" };
    format!(
        "select id, row_to_json(t)::text from {table} t where tenant_id = $1 and {condition} \
         order by id limit $3::bigint"
    )
}

/// Copies the tenant's rows between tables of the same shape.
pub(crate) fn copy_sql(from: &str, to: &str) -> String {
    format!("insert into {to} select * from {from} where tenant_id = $1")
}

/// Selects the `$3`-th key after key `$2`.
pub(crate) fn nth_key_sql(table: &str, behind: bool) -> String {
    let condition = if behind { "id > $2::uuid" } else { "$2::uuid is not null" };
    format!(
        "select id from {table} where tenant_id = $1 and {condition} order by id offset $3::bigint - 1 limit 1"
    )
}

/// Deletes `$3` rows after key `$2` and returns the last deleted key.
pub(crate) fn delete_sql(table: &str, behind: bool) -> String {
    let condition = if behind { "id > $2::uuid" } else { "$2::uuid is not null" };
    format!(
        "with gone as (delete from {table} where tenant_id = $1 and id in (
             select id from {table} where tenant_id = $1 and {condition} order by id limit $3::bigint) returning id)
         select (array_agg(id order by id desc))[1] from gone"
    )
}

#[cfg(test)]
mod tests {
    use schemas::engine::Row;

    use super::*;
    use crate::CustomerRow;

    #[test]
    fn the_upsert_names_every_column_and_leaves_the_key_alone() {
        let columns = "id, user_id, name, email, email_key, company, notes, status, erased, registered_at, version, \
                       updated_at";
        let selected: Vec<String> = columns.split(", ").map(|column| format!("r.{column}")).collect();
        let updated: Vec<String> =
            columns.split(", ").skip(1).map(|column| format!("{column} = excluded.{column}")).collect();
        assert_eq!(
            Statements::of(CustomerRow::MODEL, "t").upsert,
            format!(
                "insert into t (tenant_id, {columns}) select $1::uuid, {} \
                 from json_populate_recordset(null::t, $2::text::json) r \
                 on conflict (tenant_id, id) do update set {}",
                selected.join(", "),
                updated.join(", ")
            )
        );
    }
}
