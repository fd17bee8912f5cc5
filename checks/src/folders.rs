//! The sources that are checked.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// The Rust sources below `folder`, in order.
pub fn sources(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The folders of the product's own sources: one for each crate of the workspace, and the binary's.
pub fn product_folders(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let manifest: toml::Table = std::fs::read_to_string(root.join("Cargo.toml"))?.parse()?;
    let members = manifest["workspace"]["members"].as_array().context("members is a list")?;
    let members = members.iter().filter_map(toml::Value::as_str).filter(|member| *member != "checks");
    let folders = members.map(|member| root.join(member).join("src"));
    Ok(folders.chain([root.join("src")]).collect())
}
