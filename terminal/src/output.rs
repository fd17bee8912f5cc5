//! Prints rows as a table, as one JSON array, or as one JSON object on each line.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use serde_json::Value;

/// The format of the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people
    #[default]
    Table,
    /// One JSON array
    Json,
    /// One JSON object a line
    Jsonl,
}

impl Output {
    /// Prints rows; a table shows `columns` in this order.
    ///
    /// # Errors
    /// When a row does not serialise, or the standard output cannot be written to. A closed pipe is no error.
    pub fn rows<T: Serialize>(self, columns: &[&str], rows: &[T]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let printed = match self {
            Self::Table => writeln!(out, "{}", table(columns, rows)?),
            Self::Json => serde_json::to_writer_pretty(&mut out, rows)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(out)),
            Self::Jsonl => rows.iter().try_for_each(|row| json_line(&mut out, row)),
        };
        printed.and_then(|()| out.flush()).or_else(ignore_broken_pipe)
    }

    /// Prints one object: as a table of one row, or as the object itself.
    ///
    /// # Errors
    /// When the object does not serialise, or the standard output cannot be written to. A closed pipe is no error.
    pub fn object<T: Serialize>(self, columns: &[&str], row: &T) -> io::Result<()> {
        match self {
            Self::Table => self.rows(columns, std::slice::from_ref(row)),
            Self::Json | Self::Jsonl => json_line(&mut io::stdout().lock(), row).or_else(ignore_broken_pipe),
        }
    }
}

/// Writes one value as a line of JSON.
///
/// # Errors
/// When the value does not serialise, or `out` cannot be written to.
pub fn json_line<T: Serialize>(out: &mut impl Write, value: &T) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

/// Ignores a closed pipe: a reader such as `| head` may stop early.
///
/// # Errors
/// Every other `error`, unchanged.
pub fn ignore_broken_pipe(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

/// Formats rows as a table.
///
/// # Errors
/// When a row does not serialise.
pub fn table<T: Serialize>(columns: &[&str], rows: &[T]) -> io::Result<Table> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|column| column.replace('_', " ").to_uppercase()));
    for row in rows {
        let row = serde_json::to_value(row)?;
        table.add_row(columns.iter().map(|column| cell(&row[*column])));
    }
    Ok(table)
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_shows_the_chosen_columns_in_order() {
        let rows = [json!({"slug": "acme", "tier": "pro", "suspended": false})];
        let text = table(&["tier", "slug"], &rows).expect("serialises").to_string();
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words, ["TIER", "SLUG", "pro", "acme"]);
    }
}
