//! Personal data under a key per subject. Payloads are sealed before they are appended and opened where they are read;
//! erasing a person destroys the key, and no byte of the log changes.
//!
//! Keys live in a file of their own, outside PostgreSQL's data, write-ahead log and backups (`docs/personal-data.md`).

mod crypto;
mod epochs;
mod error;
mod file;
mod handing;
mod keyring;
mod payload;
mod rewrap;
mod table;

pub use crypto::{RootKey, RootKeys};
pub use epochs::{Epoch, RootStanding, epochs};
pub use error::KeyringError;
pub use handing::{HandedKeys, HandingError, Identity, Recipient};
pub use keyring::{Keyring, SealedPayload};
pub use rewrap::{Rewrapped, rewrap};
pub use table::Erasure;
