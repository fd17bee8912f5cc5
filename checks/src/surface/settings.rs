//! Items of the settings: every key, and the type of its value.

use anyhow::Context;

use super::items::{Items, Promise};

/// The items of `config.default.toml`.
pub fn items(_file: &str, text: &str) -> anyhow::Result<Items> {
    let settings: toml::Table = text.parse()?;
    let mut items = Items::new();
    for (section, keys) in &settings {
        for (key, value) in keys.as_table().context("settings are in sections")? {
            items.insert(format!("setting: {section}.{key}"), Promise::Exactly(value.type_str().to_owned()));
        }
    }
    Ok(items)
}
