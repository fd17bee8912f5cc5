//! For build scripts: fingerprints of the source files that make the states of one context. A changed fingerprint makes
//! snapshots of these states unusable, because other code may fold to another state.
//!
//! A fingerprint covers the folders of the context in this crate and in `schemas`, of each context that they name, and of
//! the engine of `schemas`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;
use std::{env, fs, io};

/// Writes `fingerprints.rs` into the output folder: a function from a context's name to its fingerprint.
pub fn write() -> io::Result<()> {
    let (own, schemas) = (Path::new("src"), Path::new("../schemas/src"));
    println!("cargo:rerun-if-changed=src");
    println!("cargo:rerun-if-changed=../schemas");
    let contexts: BTreeSet<String> = fs::read_dir(schemas)?
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    let mut sources = BTreeMap::new();
    for context in &contexts {
        let mut text = Vec::new();
        for root in [own, schemas].into_iter().filter(|root| *root == schemas || context != "engine") {
            read(&root.join(format!("{context}.rs")), &mut text)?;
            read(&root.join(context), &mut text)?;
        }
        sources.insert(context.as_str(), text);
    }
    let mut code =
        "#[allow(clippy::unreadable_literal, clippy::match_same_arms, reason = \"generated\")]\nfn of_context(context: &str) -> u64 {\n    match context {\n".to_owned();
    for context in &contexts {
        let arm = fingerprint(context, &sources);
        writeln!(code, "        \"{context}\" => {arm},").expect("writing to a string");
    }
    let engine = fingerprint("engine", &sources);
    write!(code, "        _ => {engine},\n    }}\n}}\n").expect("writing to a string");
    let out = env::var_os("OUT_DIR").unwrap_or_default();
    fs::write(Path::new(&out).join("fingerprints.rs"), code)
}

/// Appends the text of a file, or of all files in a folder.
fn read(path: &Path, text: &mut Vec<u8>) -> io::Result<()> {
    if path.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path)?.collect::<io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::path);
        return entries.iter().try_for_each(|entry| read(&entry.path(), text));
    }
    if path.is_file() {
        text.extend(fs::read(path)?);
    }
    Ok(())
}

fn fingerprint(context: &str, sources: &BTreeMap<&str, Vec<u8>>) -> u64 {
    let (mut covered, mut open) = (BTreeSet::new(), vec![context, "engine"]);
    while let Some((name, text)) = open.pop().and_then(|name| sources.get_key_value(name)) {
        covered.insert(*name);
        let text = String::from_utf8_lossy(text);
        let is_named = |other: &str| {
            text.contains(&format!("crate::{other}::")) || text.contains(&format!("schemas::{other}::"))
        };
        open.extend(sources.keys().filter(|other| !covered.contains(**other) && is_named(other)));
    }
    let mut hasher = DefaultHasher::new();
    for name in covered {
        hasher.write(sources.get(name).map_or(&[], Vec::as_slice));
    }
    hasher.finish()
}
