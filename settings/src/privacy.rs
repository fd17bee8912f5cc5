//! `[privacy]`: the key store and the root keys.

#![expect(missing_docs, reason = "`config.default.toml` describes each setting")]

use std::path::PathBuf;

use keyring::{KeyDatabase, KeyDatabaseOwner, KeyStoreConfig, TlsConfig};
use serde::Deserialize;

use super::sections::{invalid, optional, path, secret, text};
use super::{Secret, SettingsError};

/// The setting with the folder of the key store, used when `privacy.keys_url` is not set.
pub const KEYS_FOLDER_SETTING: &str = "privacy.keys_folder";

/// `[privacy]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivacySettings {
    #[serde(deserialize_with = "path")]
    pub keys_folder: Option<PathBuf>,
    #[serde(deserialize_with = "text")]
    pub keys_url: Option<String>,
    #[serde(deserialize_with = "secret")]
    pub keys_password: Option<Secret>,
    #[serde(deserialize_with = "path")]
    pub keys_password_file: Option<PathBuf>,
    pub keys_owner_user: String,
    #[serde(deserialize_with = "secret")]
    pub keys_owner_password: Option<Secret>,
    #[serde(deserialize_with = "path")]
    pub keys_owner_password_file: Option<PathBuf>,
    pub keys_tls: String,
    #[serde(deserialize_with = "path")]
    pub keys_tls_ca_file: Option<PathBuf>,
    #[serde(deserialize_with = "path")]
    pub keys_tls_certificate_file: Option<PathBuf>,
    #[serde(deserialize_with = "path")]
    pub keys_tls_key_file: Option<PathBuf>,
    #[serde(deserialize_with = "secret")]
    pub root_key: Option<Secret>,
    #[serde(deserialize_with = "path")]
    pub root_key_file: Option<PathBuf>,
    #[serde(deserialize_with = "secret")]
    pub previous_root_key: Option<Secret>,
    #[serde(deserialize_with = "path")]
    pub previous_root_key_file: Option<PathBuf>,
    pub key_lease_seconds: u64,
}

impl PrivacySettings {
    /// The root key in hexadecimal.
    ///
    /// # Errors
    /// [`SettingsError`] when both the value and its file are set, or neither is, or the file cannot be read.
    pub fn root_key(&self) -> Result<Secret, SettingsError> {
        Secret::resolve("privacy.root_key", self.root_key.as_ref(), self.root_key_file.as_deref())
    }

    /// The previous root key, if it is set.
    ///
    /// # Errors
    /// [`SettingsError`] when both the value and its file are set, or the file cannot be read.
    pub fn previous_root_key(&self) -> Result<Option<Secret>, SettingsError> {
        let (key, file) = (self.previous_root_key.as_ref(), self.previous_root_key_file.as_deref());
        optional(Secret::resolve("privacy.previous_root_key", key, file))
    }

    /// The password of the product's role in the key database.
    fn keys_password(&self) -> Result<Secret, SettingsError> {
        let (password, file) = (self.keys_password.as_ref(), self.keys_password_file.as_deref());
        Secret::resolve("privacy.keys_password", password, file)
    }

    /// The key store. `None` when neither setting is set.
    ///
    /// # Errors
    /// [`SettingsError::Invalid`] when both settings are set. Others as [`key_database`](Self::key_database).
    pub fn key_store(&self) -> Result<Option<KeyStoreConfig>, SettingsError> {
        match (&self.keys_folder, self.key_database()?) {
            (Some(_), Some(_)) => Err(invalid(
                "privacy.keys_url",
                "and `privacy.keys_folder` are both set; keys are in one place",
            )),
            (Some(folder), None) => Ok(Some(KeyStoreConfig::Folder(folder.clone()))),
            (None, database) => Ok(database.map(KeyStoreConfig::Database)),
        }
    }

    /// The key database. `None` when it is not set.
    ///
    /// # Errors
    /// [`SettingsError::Invalid`] when the URL or the TLS mode is malformed. [`SettingsError::Missing`],
    /// [`SettingsError::Twice`] or [`SettingsError::SecretFile`] for its password.
    pub fn key_database(&self) -> Result<Option<KeyDatabase>, SettingsError> {
        let Some(url) = &self.keys_url else { return Ok(None) };
        let tls = TlsConfig {
            mode: self
                .keys_tls
                .parse()
                .map_err(|_| invalid("privacy.keys_tls", "must be off, require or verify-full"))?,
            ca_file: self.keys_tls_ca_file.clone(),
            certificate_file: self.keys_tls_certificate_file.clone(),
            key_file: self.keys_tls_key_file.clone(),
        };
        KeyDatabase::new(url, self.keys_password()?.reveal(), tls)
            .map(Some)
            .map_err(|error| invalid("privacy.keys_url", &error.to_string()))
    }

    /// The owner of the key database. Only migrations need it.
    ///
    /// # Errors
    /// [`SettingsError`] when both its password and the file of it are set, or neither is, or the file cannot be read.
    pub fn keys_owner(&self) -> Result<KeyDatabaseOwner, SettingsError> {
        let (password, file) = (self.keys_owner_password.as_ref(), self.keys_owner_password_file.as_deref());
        let password = Secret::resolve("privacy.keys_owner_password", password, file)?;
        Ok(KeyDatabaseOwner { user: self.keys_owner_user.clone(), password: password.reveal().into() })
    }

    /// The missing settings of a process that decrypts personal data.
    pub(super) fn missing(&self) -> Vec<SettingsError> {
        let nowhere = self.keys_folder.is_none() && self.keys_url.is_none();
        let place = nowhere.then_some(SettingsError::Missing(KEYS_FOLDER_SETTING));
        place.into_iter().chain(self.root_key().err()).collect()
    }

    pub(super) fn problem(&self) -> Option<SettingsError> {
        if !(1..=300).contains(&self.key_lease_seconds) {
            return Some(invalid("privacy.key_lease_seconds", "must be 1 to 300"));
        }
        self.key_store().err()
    }
}
