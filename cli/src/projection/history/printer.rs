//! Prints rows and changes of a read model, page by page.

use std::io::{self, BufWriter, Stdout, Write};

use serde_json::Value;
use terminal::{Output, ignore_broken_pipe, json_line, table};

/// Prints rows page by page.
pub struct RowPrinter {
    output: Output,
    out: BufWriter<Stdout>,
    /// The number of rows.
    pub count: u64,
}

impl RowPrinter {
    /// A printer to standard output.
    pub fn new(output: Output) -> Self {
        Self { output, out: BufWriter::new(io::stdout()), count: 0 }
    }

    /// Prints rows; each page starts a new table. `false` when the reader has closed the pipe.
    pub fn rows(&mut self, rows: Vec<Value>) -> io::Result<bool> {
        let mut columns: Vec<&str> = rows
            .first()
            .and_then(Value::as_object)
            .map_or(Vec::new(), |row| row.keys().map(String::as_str).filter(|name| *name != "id").collect());
        columns.insert(0, "id");
        self.print(&columns, &rows)
    }

    /// Prints changes. A table shows them in words.
    pub fn changes(&mut self, mut changes: Vec<Value>) -> io::Result<bool> {
        if self.output == Output::Table {
            for row in &mut changes {
                row["fields"] = describe_fields(&row["fields"]).into();
            }
        }
        self.print(&["id", "kind", "fields"], &changes)
    }

    fn print(&mut self, columns: &[&str], rows: &[Value]) -> io::Result<bool> {
        let before = self.count;
        self.count += rows.len() as u64;
        let printed = match self.output {
            Output::Table if rows.is_empty() && before > 0 => Ok(()),
            Output::Table => table(columns, rows).and_then(|table| writeln!(self.out, "{table}")),
            Output::Jsonl => rows.iter().try_for_each(|row| json_line(&mut self.out, row)),
            Output::Json => rows.iter().zip(before..).try_for_each(|(row, number)| {
                write!(self.out, "{}", if number == 0 { "[" } else { "," })?;
                json_line(&mut self.out, row)
            }),
        };
        match printed.and_then(|()| self.out.flush()) {
            Ok(()) => Ok(true),
            Err(error) => ignore_broken_pipe(error).map(|()| false),
        }
    }

    /// Ends the output.
    pub fn end(&mut self) -> io::Result<()> {
        if self.output == Output::Json {
            let end = if self.count == 0 { "[]" } else { "]" };
            return writeln!(self.out, "{end}").and_then(|()| self.out.flush()).or_else(ignore_broken_pipe);
        }
        Ok(())
    }
}

/// `name: "Ada" -> "Bo", ...`
fn describe_fields(fields: &Value) -> String {
    let shown = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
    let field = |(name, change): (&String, &Value)| {
        format!("{name}: {} -> {}", shown(change.get("before")), shown(change.get("after")))
    };
    let fields = fields.as_object().map(|fields| fields.iter().map(field).collect::<Vec<_>>());
    fields.unwrap_or_default().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_reads_as_words() {
        let fields = json!({"name": {"before": "Ada", "after": "Bo"}, "notes": {"after": null}});
        assert_eq!(describe_fields(&fields), r#"name: "Ada" -> "Bo", notes: nothing -> null"#);
    }
}
