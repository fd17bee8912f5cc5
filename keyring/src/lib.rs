//! Personal data, encrypted with one key per subject.
//!
//! Payloads are encrypted before they are appended, and decrypted when they are read.
//! Destroying the key erases the person without changing the log.
//!
//! Keys are in a key store outside the data, write-ahead log and backups of the event database.
//! It is a file of one machine or a PostgreSQL database (`docs/personal-data.md`).

mod cache;
mod config;
mod crypto;
mod epochs;
mod error;
mod file;
mod key;
mod key_database;
mod key_export;
mod keyring;
mod payload;
mod postgres;
mod store;

pub use config::KeyStoreConfig;
pub use crypto::{RootKey, RootKeys};
pub use database::TlsConfig;
pub use epochs::{Epoch, RewrapResult, RootKeyState};
pub use error::KeyringError;
pub use key::{Erasure, StoredKey};
pub use key_database::KeyDatabase;
pub use key_export::{ExportedKeys, Identity, KeyExportError, Recipient};
pub use keyring::{Keyring, MissingKey, SealedPayload};
pub use postgres::{KeyDatabaseOwner, migrate};
