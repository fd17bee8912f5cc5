//! What outsiders use, compared with the last release: what was there must still be there and must not be narrower.
//!
//! `released/` holds the artefacts of the last release, written by `make release-baseline VERSION=...`. A removal or a
//! narrowing is accepted where `CHANGELOG.md` names the item in a section newer than that release, and the section has a line
//! that begins with "Breaking".
//!
//! Layout: one file a kind of artefact; each turns the artefact into items.

mod graphql;
mod items;
mod json;
mod pages;
mod settings;

use std::path::Path;

use anyhow::Context;

use self::items::{Items, Promise};

/// An artefact: a file, or a folder of files.
struct Artefact {
    path: &'static str,
    read: fn(&str, &str) -> anyhow::Result<Items>,
}

const ARTEFACTS: [Artefact; 9] = [
    Artefact { path: "gateway/schema.graphql", read: graphql::items },
    Artefact { path: "schemas/asyncapi.json", read: json::asyncapi },
    Artefact { path: "schemas/json", read: json::schema },
    Artefact { path: "schemas/samples", read: json::sample },
    Artefact { path: "config.default.toml", read: settings::items },
    Artefact { path: "docs/errors.md", read: pages::errors },
    Artefact { path: "docs/metrics.md", read: pages::metrics },
    Artefact { path: "docs/routes.md", read: pages::routes },
    Artefact { path: "docs/commands.md", read: pages::commands },
];

const BASELINE: &str = "released";
const VERSION_FILE: &str = "VERSION";

/// What was removed or narrowed since the last release without a word in the changelog.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let baseline = root.join(BASELINE);
    let version = std::fs::read_to_string(baseline.join(VERSION_FILE)).context("released/VERSION")?;
    let changelog = std::fs::read_to_string(root.join("CHANGELOG.md")).context("CHANGELOG.md")?;
    let announced = announced(&changelog, version.trim());
    let broken = broken(&all_items(&baseline)?, &all_items(root)?);
    let unannounced = broken.into_iter().filter(|(item, _)| !is_announced(&announced, item));
    Ok(unannounced
        .map(|(item, problem)| {
            format!("{item}: {problem}. Name it in CHANGELOG.md below a line that begins with \"Breaking\"")
        })
        .collect())
}

/// Copies the artefacts to `released/`.
pub fn write_baseline(root: &Path, version: &str) -> anyhow::Result<()> {
    let baseline = root.join(BASELINE);
    if baseline.exists() {
        std::fs::remove_dir_all(&baseline)?;
    }
    for artefact in &ARTEFACTS {
        for name in files(root, artefact.path)? {
            let target = baseline.join(&name);
            let folder = target.parent().context("a file has a folder")?;
            std::fs::create_dir_all(folder)?;
            std::fs::copy(root.join(&name), target).with_context(|| name.clone())?;
        }
    }
    std::fs::write(baseline.join(VERSION_FILE), format!("{version}\n"))?;
    Ok(())
}

fn all_items(root: &Path) -> anyhow::Result<Items> {
    let mut all = Items::new();
    for artefact in &ARTEFACTS {
        for name in files(root, artefact.path)? {
            let text = std::fs::read_to_string(root.join(&name)).with_context(|| name.clone())?;
            let short = name.rsplit('/').next().unwrap_or(&name);
            all.extend((artefact.read)(short, &text).with_context(|| name.clone())?);
        }
    }
    Ok(all)
}

/// The files of an artefact, relative to the root, in order.
fn files(root: &Path, path: &str) -> anyhow::Result<Vec<String>> {
    if !root.join(path).is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join(path))? {
        let name = entry?.file_name().into_string().ok().context("names of files are UTF-8")?;
        names.push(format!("{path}/{name}"));
    }
    names.sort();
    Ok(names)
}

/// The items that were removed or narrowed, and how.
fn broken(old: &Items, new: &Items) -> Vec<(String, String)> {
    let mut broken = Vec::new();
    for (item, promise) in old {
        let problem = match new.get(item) {
            None => Some("is gone".to_owned()),
            Some(now) => narrowed(promise, now),
        };
        broken.extend(problem.map(|problem| (item.clone(), problem)));
    }
    for (item, promise) in new {
        // `input: X.y` or `argument: T.f.a`: a new one of an owner that was there must be optional.
        let name = |item: &str| item.split_once(": ").map_or(item, |(_, name)| name).to_owned();
        let owner = name(item).rsplit_once('.').map(|(owner, _)| owner.to_owned());
        let owner_is_old = owner.is_some_and(|owner| old.keys().any(|known| name(known) == owner));
        if let Promise::Sent { is_required: true, .. } = promise
            && !old.contains_key(item)
            && owner_is_old
        {
            broken.push((item.clone(), "is new and required".to_owned()));
        }
    }
    broken
}

fn narrowed(old: &Promise, new: &Promise) -> Option<String> {
    let changed = |old: &str, new: &str| Some(format!("was {old}, is {new}"));
    match (old, new) {
        (Promise::Exists, _) => None,
        (Promise::Exactly(old), Promise::Exactly(new)) if old == new => None,
        (Promise::Exactly(_), Promise::Exactly(_)) => Some("has changed".to_owned()),
        (Promise::Read(old), Promise::Read(new)) => {
            (!promises_all_of(new, old)).then(|| changed(old, new))?
        }
        (Promise::Sent { kind: old, is_required: was }, Promise::Sent { kind: new, is_required: is }) => {
            let takes_all = promises_all_of(old, new) && (*was || !is);
            (!takes_all).then(|| changed(old, new))?
        }
        (old, new) => Some(format!("was {old:?}, is {new:?}")),
    }
}

/// Whether every value of the type `left` is one of the type `right`: the same type with more `!`.
fn promises_all_of(left: &str, right: &str) -> bool {
    let (mut left, mut right) = (left.chars().peekable(), right.chars().peekable());
    loop {
        match (left.peek(), right.peek()) {
            (None, None) => return true,
            (Some(l), Some(r)) if l == r => {
                left.next();
                right.next();
            }
            (Some('!'), _) => {
                left.next();
            }
            _ => return false,
        }
    }
}

/// The sections of the changelog that are newer than `version` and announce something breaking.
fn announced(changelog: &str, version: &str) -> String {
    let mut sections = String::new();
    for section in changelog.split("\n## ").skip(1) {
        let title = section.split_whitespace().next().unwrap_or_default();
        if title == version {
            break;
        }
        if section.lines().any(|line| line.trim_start_matches(['-', '*', ' ']).starts_with("Breaking")) {
            sections.push_str(section);
        }
    }
    sections
}

/// Whether the text names the item: by its whole name, or by the last part of it, as code.
fn is_announced(announced: &str, item: &str) -> bool {
    let name = item.split_once(": ").map_or(item, |(_, name)| name);
    let last = name.rsplit(['.', ' ']).next().unwrap_or(name);
    [name, last].iter().any(|name| announced.contains(&format!("`{name}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(list: &[(&str, Promise)]) -> Items {
        list.iter().map(|(name, promise)| ((*name).to_owned(), promise.clone())).collect()
    }

    fn read(kind: &str) -> Promise {
        Promise::Read(kind.to_owned())
    }

    fn sent(kind: &str) -> Promise {
        Promise::Sent { kind: kind.to_owned(), is_required: kind.ends_with('!') }
    }

    #[test]
    fn what_is_removed_or_narrower_is_found_and_what_is_wider_is_not() {
        let old = items(&[
            ("type: Add", Promise::Exists),
            ("field: User.id", read("ID!")),
            ("field: User.name", read("String")),
            ("field: User.tags", read("[String!]")),
            ("input: Add.name", sent("String!")),
            ("input: Add.note", sent("String")),
            ("code: taken", Promise::Exactly("409".to_owned())),
            ("metric: a_total", Promise::Exists),
        ]);
        let wider = items(&[
            ("type: Add", Promise::Exists),
            ("field: User.id", read("ID!")),
            ("field: User.name", read("String!")),
            ("field: User.tags", read("[String!]!")),
            ("field: User.age", read("Int")),
            ("input: Add.name", sent("String")),
            ("input: Add.note", sent("String")),
            ("input: Add.more", sent("String")),
            ("code: taken", Promise::Exactly("409".to_owned())),
            ("metric: a_total", Promise::Exists),
        ]);
        assert_eq!(broken(&old, &wider), []);
        let narrower = items(&[
            ("type: Add", Promise::Exists),
            ("field: User.id", read("ID")),
            ("field: User.name", read("Int")),
            ("field: User.tags", read("[String]")),
            ("input: Add.name", sent("String!")),
            ("input: Add.note", sent("String!")),
            ("input: Add.more", sent("String!")),
            ("code: taken", Promise::Exactly("422".to_owned())),
        ]);
        let found: Vec<String> = broken(&old, &narrower).into_iter().map(|(item, _)| item).collect();
        assert_eq!(
            found,
            [
                "code: taken",
                "field: User.id",
                "field: User.name",
                "field: User.tags",
                "input: Add.note",
                "metric: a_total",
                "input: Add.more",
            ]
        );
    }

    #[test]
    fn a_section_that_is_newer_than_the_release_announces_what_breaks() {
        let changelog = "# Changelog\n\n## 0.3.0\n\nBreaking: `User.name` is gone.\n\n## 0.2.1\n\n- `Add.note`\n\n\
                         ## 0.2.0\n\nBreaking: `code_old`\n";
        let text = announced(changelog, "0.2.0");
        assert!(is_announced(&text, "field: User.name"));
        assert!(!is_announced(&text, "input: Add.note"), "the section has no line Breaking");
        assert!(!is_announced(&text, "code: code_old"), "the section is not newer");
    }

    #[test]
    fn the_repository_promises_something_of_every_artefact() {
        let root = crate::root().expect("a root");
        for artefact in &ARTEFACTS {
            let mut count = 0;
            for name in files(&root, artefact.path).expect("files") {
                let text = std::fs::read_to_string(root.join(&name)).expect("readable");
                count += (artefact.read)(&name, &text).expect("items").len();
            }
            assert!(count > 5, "{} has {count} items", artefact.path);
        }
    }
}
