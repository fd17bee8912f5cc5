//! Personal data under a key per subject. Payloads are sealed before they are appended and opened where they are read;
//! erasing a person destroys the key, and no byte of the log changes.
//!
//! Keys live in a store of their own, outside the data, write-ahead log and backups of the database of events: a file of this
//! machine or a PostgreSQL database (`docs/personal-data.md`).

mod cache;
mod config;
mod crypto;
mod epochs;
mod error;
mod file;
mod key_export;
mod keyring;
mod payload;
mod postgres;
mod store;

pub use config::{KeyDatabase, KeyStoreConfig};
pub use crypto::{RootKey, RootKeys};
pub use database::TlsConfig;
pub use epochs::{Epoch, RewrapResult, RootKeyState};
pub use error::KeyringError;
pub use key_export::{ExportedKeys, Identity, KeyExportError, Recipient};
pub use keyring::{Keyring, MissingKey, SealedPayload};
pub use postgres::{KeyDatabaseOwner, migrate};
pub use store::{Erasure, StoredKey};
