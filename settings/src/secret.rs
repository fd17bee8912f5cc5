//! Secrets: values that are hidden in logs and debug output. A setting holds the value or the path of a file with it.

use std::fmt;
use std::path::Path;

use serde::Deserialize;

use super::SettingsError;

/// A text whose debug output is hidden.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value that was read or generated elsewhere.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The value of a secret setting: the value itself, or the contents of its file without the final line break.
    pub(super) fn resolve(
        name: &'static str,
        value: Option<&Self>,
        file: Option<&Path>,
    ) -> Result<Self, SettingsError> {
        match (value, file) {
            (Some(_), Some(_)) => Err(SettingsError::Twice(name)),
            (Some(value), None) => Ok(value.clone()),
            (None, Some(path)) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(Self(text.trim_end_matches(['\r', '\n']).to_owned())),
                Err(source) => Err(SettingsError::SecretFile { name, path: path.to_owned(), source }),
            },
            (None, None) => Err(SettingsError::Missing(name)),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
