//! `docs/limits.md`: every limit of the source with its value and unit. A limit is a constant whose name ends in a unit
//! (`STYLE.md`, section "Names").

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;

use crate::folders::{product_folders, sources};

/// The ends of names of limits.
const SUFFIXES: [&str; 7] = ["_MAX", "_MIN", "_TIMEOUT", "_INTERVAL", "_RETENTION", "_LIFETIME", "_LEASE"];

const PAGE: &str = "docs/limits.md";

#[derive(Debug, PartialEq, Eq)]
struct Limit<'a> {
    name: &'a str,
    value: String,
    meaning: String,
}

/// Whether the page lists the limits of the source.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let written = std::fs::read_to_string(root.join(PAGE)).unwrap_or_default();
    let stale = written != render(root)?;
    Ok(stale
        .then(|| format!("{PAGE} is stale: run `cargo run -p checks -- limits --write`"))
        .into_iter()
        .collect())
}

/// Writes the page.
pub fn write(root: &Path) -> anyhow::Result<()> {
    std::fs::write(root.join(PAGE), render(root)?).context(PAGE)
}

fn render(root: &Path) -> anyhow::Result<String> {
    let mut page = String::from(
        "# Limits\n\n\
         The constants of the source make this page: `cargo run -p checks -- limits --write` writes it.\n\
         Limits that an operator sets are in [config.default.toml](../config.default.toml).\n",
    );
    for folder in product_folders(root)? {
        let name = folder.parent().context("a folder of sources has a parent")?.strip_prefix(root)?;
        let name = if name.as_os_str().is_empty() { "annals".to_owned() } else { name.display().to_string() };
        let mut rows = String::new();
        for path in sources(&folder)? {
            let text = std::fs::read_to_string(&path)?;
            let file = path.strip_prefix(&folder)?.display().to_string();
            for Limit { name, value, meaning } in limits(&text) {
                let _ = writeln!(rows, "| `{file}` | `{name}` | {value} | {meaning} |");
            }
        }
        if !rows.is_empty() {
            let _ = write!(
                page,
                "\n## {name}\n\n| file | limit | value | meaning |\n| --- | --- | --- | --- |\n{rows}"
            );
        }
    }
    Ok(page)
}

/// The limits that a source declares outside its tests.
fn limits(text: &str) -> Vec<Limit<'_>> {
    let text = text.split("#[cfg(test)]").next().unwrap_or(text);
    let mut found = Vec::new();
    let mut comment = String::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if let Some(part) = line.strip_prefix("///") {
            comment.push_str(part);
            continue;
        }
        let declared =
            line.split_once("const ").filter(|(before, _)| before.is_empty() || before.starts_with("pub"));
        if let Some((_, rest)) = declared
            && let Some((name, rest)) = rest.split_once(": ")
            && SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
        {
            let mut rest = rest.to_owned();
            while !rest.ends_with(';') {
                let Some(more) = lines.next() else { break };
                rest.push(' ');
                rest.push_str(more);
            }
            let value = rest.split_once(" = ").map_or("", |(_, value)| value.trim_end_matches(';'));
            found.push(Limit { name, value: shown(name, value), meaning: first_sentence(&comment) });
        }
        if !line.starts_with("#[") {
            comment.clear();
        }
    }
    found
}

/// A value with its unit, where it is a number or a duration.
fn shown(name: &str, value: &str) -> String {
    for (start, unit) in [
        ("Duration::from_millis(", "ms"),
        ("Duration::from_secs(", "s"),
        ("Duration::from_mins(", "min"),
        ("Duration::from_hours(", "h"),
        ("TimeDelta::days(", "days"),
        ("TimeDelta::hours(", "h"),
        ("TimeDelta::minutes(", "min"),
        ("TimeDelta::seconds(", "s"),
    ] {
        let inner = value.strip_prefix(start).and_then(|rest| rest.strip_suffix(')'));
        if let Some(number) = inner.and_then(product) {
            return format!("{number} {unit}");
        }
    }
    match product(value) {
        Some(number) if name.contains("BYTES") => bytes(number),
        Some(number) => number.to_string(),
        None => format!("`{value}`"),
    }
}

/// The value of a number, or of numbers that are multiplied or shifted.
fn product(text: &str) -> Option<u64> {
    text.split('*').try_fold(1_u64, |product, factor| {
        let factor = factor.trim().trim_matches(['(', ')']);
        let value = match factor.split_once("<<") {
            Some((one, shift)) => one.trim().parse::<u64>().ok()? << shift.trim().parse::<u32>().ok()?,
            None => factor.replace('_', "").parse().ok()?,
        };
        product.checked_mul(value)
    })
}

fn bytes(number: u64) -> String {
    match number {
        0 => "0 bytes".to_owned(),
        number if number.is_multiple_of(1 << 20) => format!("{} MiB", number >> 20),
        number if number.is_multiple_of(1 << 10) => format!("{} KiB", number >> 10),
        number => format!("{number} bytes"),
    }
}

fn first_sentence(comment: &str) -> String {
    let comment = comment.trim();
    let end = comment.find(". ").map_or(comment.len(), |end| end + 1);
    comment[..end].replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_a_value_with_its_unit_and_a_meaning() {
        let text = "/// How long a read waits. Then 503.\npub const WAIT_TIMEOUT: Duration = Duration::from_secs(2);\n\
                    const BODY_BYTES_MAX: usize = 4 * 1_024 * 1_024;\nconst OTHER: usize = 1;\n\
                    pub(crate) const ROWS_MAX: usize =\n    1 << 9;\n#[cfg(test)]\nconst X_MAX: u8 = 1;\n";
        let limit = |name, value: &str, meaning: &str| Limit {
            name,
            value: value.to_owned(),
            meaning: meaning.to_owned(),
        };
        assert_eq!(
            limits(text),
            [
                limit("WAIT_TIMEOUT", "2 s", "How long a read waits."),
                limit("BODY_BYTES_MAX", "4 MiB", ""),
                limit("ROWS_MAX", "512", ""),
            ]
        );
        assert_eq!(shown("A_BYTES_MAX", "1_500"), "1500 bytes");
        assert_eq!(shown("A_MAX", "OTHER - 1"), "`OTHER - 1`");
    }
}
