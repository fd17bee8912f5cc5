//! Personal data under a key per subject. Payloads are sealed before they are appended and opened where they are read;
//! erasing a person destroys the key, and no byte of the log changes.
//!
//! Keys live in a file of their own, outside PostgreSQL's data, write-ahead log and backups (`docs/personal-data.md`).

mod crypto;
mod error;
mod handing;
mod keyring;
mod payload;
mod table;

pub use crypto::RootKey;
pub use error::KeyringError;
pub use handing::{HandedKeys, HandingError, Identity, Recipient};
pub use keyring::{Keyring, SealedPayload};
pub use table::Erasure;
