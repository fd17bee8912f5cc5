//! Items of generated pages: tables and lists whose first column is a name in code quotes.

use anyhow::ensure;

use super::items::{Items, Promise};

/// The cells of the table rows whose first cell that is code is a name.
fn rows(text: &str) -> impl Iterator<Item = Vec<String>> {
    let lines = text.lines().filter(|line| line.starts_with('|') && line.contains('`'));
    lines.map(|line| {
        let cells = line.trim_matches('|').split(" | ");
        cells.map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    })
}

/// A page without items was not understood.
fn some(items: Items) -> anyhow::Result<Items> {
    ensure!(!items.is_empty(), "the page lists nothing");
    Ok(items)
}

fn cell(row: &[String], index: usize) -> String {
    row.get(index).cloned().unwrap_or_default()
}

/// Error codes with their status and their form in GraphQL.
pub fn errors(_file: &str, text: &str) -> anyhow::Result<Items> {
    let item = |row: Vec<String>| {
        let promise = Promise::Exactly(format!("{} {}", cell(&row, 1), cell(&row, 2)));
        (format!("code: {}", cell(&row, 0)), promise)
    };
    some(rows(text).map(item).collect())
}

/// Metrics with their kind and labels.
pub fn metrics(_file: &str, text: &str) -> anyhow::Result<Items> {
    let item = |row: Vec<String>| {
        let promise = Promise::Exactly(format!("{} {{{}}}", cell(&row, 1), cell(&row, 2)));
        (format!("metric: {}", cell(&row, 0)), promise)
    };
    some(rows(text).map(item).collect())
}

/// Routes: the method and the path.
pub fn routes(_file: &str, text: &str) -> anyhow::Result<Items> {
    let item = |row: Vec<String>| (format!("route: {} {}", cell(&row, 0), cell(&row, 1)), Promise::Exists);
    some(rows(text).map(item).collect())
}

/// Commands of the command line with their arguments. A new argument that is required breaks scripts.
pub fn commands(_file: &str, text: &str) -> anyhow::Result<Items> {
    let mut items = Items::new();
    let mut command = "annals".to_owned();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("## `").and_then(|rest| rest.strip_suffix('`')) {
            name.clone_into(&mut command);
            items.insert(format!("command: {command}"), Promise::Exists);
        } else if let Some((name, rest)) = line.strip_prefix("- `").and_then(|rest| rest.split_once('`')) {
            let is_required = rest.starts_with(" (required)");
            let kind = name.split_once(' ').map_or("", |(_, value)| value).to_owned();
            let name = name.split(' ').next().unwrap_or(name);
            let kind = if is_required { format!("{kind}!") } else { kind };
            items.insert(format!("argument: {command}.{name}"), Promise::Sent { kind, is_required });
        }
    }
    some(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_their_arguments_are_items() {
        let page = "- `--output <OUTPUT>`: How\n\n## `annals event tail`\n\nTail.\n\n- `--tenant <SLUG>` (required): Whose\n";
        let items = commands("commands.md", page).expect("items");
        assert_eq!(items.get("command: annals event tail"), Some(&Promise::Exists));
        let tenant = Promise::Sent { kind: "<SLUG>!".to_owned(), is_required: true };
        assert_eq!(items.get("argument: annals event tail.--tenant"), Some(&tenant));
        assert!(items.contains_key("argument: annals.--output"));
    }
}
