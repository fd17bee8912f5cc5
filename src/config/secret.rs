//! Secrets: values that show neither in logs nor in debug output, given as themselves or as the file that holds them.

use std::fmt;
use std::path::Path;

use serde::Deserialize;

use super::SettingsError;

/// A text that is never printed.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// A secret that was read or made elsewhere.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The secret of a setting: its value, or the contents of its file without the line break at the end.
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
