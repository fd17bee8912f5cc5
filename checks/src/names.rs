//! Words and names that the style forbids.
//!
//! - Constants and types of the private vocabulary that the product once had (`docs/glossary.md` has the standard terms).
//! - Names of types that stand in more than two crates: such a name says too little.
//! - Words in prose that hide the subject, lines of Markdown that are too long to compare, and paths that are not there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;

use crate::folders::{product_folders, sources};

/// Names of constants and types that may not come back.
const BANNED_NAMES: [&str; 34] = [
    "ALIVE",
    "AT_ONCE",
    "BEAT",
    "CONTENDED",
    "ENOUGH",
    "FAREWELL",
    "FLIGHTS",
    "GATHER",
    "KEPT",
    "LAST",
    "LIVES",
    "LITTLE",
    "LOOK",
    "LOOKS",
    "MOST",
    "NAP",
    "PATIENCE",
    "PURSUIT",
    "REST",
    "SHOWN",
    "TAKEN",
    "TOGETHER",
    "TOLD",
    "TRIES",
    "WINNERS",
    "Asked",
    "Door",
    "Found",
    "Lane",
    "Place",
    "Shown",
    "Standing",
    "Turn",
    "Wanted",
];

/// Names of types that every crate may have.
const COMMON_TYPES: [&str; 3] = ["Error", "Inner", "State"];

/// Folders that the model layer replaces (`docs/adding-an-aggregate.md`).
const EXEMPT: [&str; 2] = ["gateway/src/graphql", "queries"];

/// A type name stands in at most so many crates.
const CRATES_PER_TYPE_MAX: usize = 2;

/// Words that hide who does what.
const BANNED_WORDS: [&str; 4] = ["nobody", "somebody", "whoever", "thereof"];

/// Columns of a line of Markdown.
const MARKDOWN_COLUMNS_MAX: usize = 120;

/// What is wrong with names and prose.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut crates: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for folder in product_folders(root)? {
        for path in sources(&folder)? {
            let text = std::fs::read_to_string(&path)?;
            let relative = path.strip_prefix(root)?.display().to_string();
            if EXEMPT.iter().any(|folder| relative.starts_with(folder)) || relative.ends_with("tests.rs") {
                continue;
            }
            for (kind, name) in declarations(&text) {
                if BANNED_NAMES.contains(&name) {
                    problems.push(format!("{relative}: `{name}` is a banned name"));
                }
                if kind == Kind::Type {
                    let owner = folder.strip_prefix(root)?.display().to_string();
                    crates.entry(name.to_owned()).or_default().insert(owner);
                }
            }
        }
    }
    for (name, owners) in crates {
        if owners.len() > CRATES_PER_TYPE_MAX && !COMMON_TYPES.contains(&name.as_str()) {
            let owners: Vec<String> = owners.into_iter().collect();
            problems.push(format!("`{name}` is a type of {}: qualify the names", owners.join(", ")));
        }
    }
    problems.extend(prose(root)?);
    Ok(problems)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Constant,
    Type,
}

/// The constants and types that the source declares at the level of its module, outside its tests.
fn declarations(text: &str) -> impl Iterator<Item = (Kind, &str)> {
    let text = text.split("#[cfg(test)]").next().unwrap_or(text);
    text.lines().filter_map(|line| {
        let line = line.strip_prefix("pub").map_or(line, |rest| match rest.strip_prefix('(') {
            Some(scope) => scope.split_once(") ").map_or(rest, |(_, rest)| rest),
            None => rest.trim_start(),
        });
        let (word, rest) = line.split_once(' ')?;
        let kind = match word {
            "const" | "static" => Kind::Constant,
            "struct" | "enum" | "trait" => Kind::Type,
            _ => return None,
        };
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
        Some((kind, &rest[..end]))
    })
}

/// What is wrong with the project's Markdown.
fn prose(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for folder in [root.to_owned(), root.join("docs"), root.join("docs/adr"), root.join("bench")] {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let relative = path.strip_prefix(root)?.display().to_string();
            let is_generated = relative == "docs/commands.md";
            for (number, line) in std::fs::read_to_string(&path)?.lines().enumerate() {
                // Rows of tables and of generated lists cannot be broken.
                let is_row = ["|", "- `"].iter().any(|start| line.starts_with(start)) || is_generated;
                let place = format!("{relative}:{}", number + 1);
                if line.chars().count() > MARKDOWN_COLUMNS_MAX && !is_row {
                    problems.push(format!("{place}: more than {MARKDOWN_COLUMNS_MAX} columns"));
                }
                let words = line.split(|letter: char| !letter.is_alphabetic()).map(str::to_lowercase);
                for path in quoted_paths(line).filter(|path| !exists(root, path)) {
                    problems.push(format!("{place}: there is no `{path}`"));
                }
                for word in words.filter(|word| BANNED_WORDS.contains(&word.as_str())) {
                    problems.push(format!("{place}: \"{word}\" hides who does it"));
                }
            }
        }
    }
    Ok(problems)
}

/// The paths of this repository that a line of Markdown names as code, such as `tests/faults` or `docs/adr/0008`.
fn quoted_paths(line: &str) -> impl Iterator<Item = &str> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter(|text| {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "._/-".contains(letter);
        let is_ours = ["docs/", "tests/"].iter().any(|folder| text.starts_with(folder))
            || ["/src/", "/migrations/"].iter().any(|folder| text.contains(folder));
        is_ours && text.chars().all(plain)
    })
}

/// Whether the path, or one that it begins, is there. `deal` is the aggregate that `docs/adding-an-aggregate.md` adds.
fn exists(root: &Path, path: &str) -> bool {
    if root.join(path).exists() || path.ends_with("/deal.rs") {
        return true;
    }
    let (folder, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", path));
    let entries = std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(name) && name.len() >= 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_found_with_their_visibility() {
        let text = "pub(crate) const PATIENCE: u8 = 1;\npub struct Lane<T> {\nenum Found {\nfn most() {\n    struct Local;\n}\n#[cfg(test)]\nstruct Test;\n";
        let found: Vec<_> = declarations(text).collect();
        assert_eq!(found, [(Kind::Constant, "PATIENCE"), (Kind::Type, "Lane"), (Kind::Type, "Found")]);
    }
}
