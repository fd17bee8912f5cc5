//! Verifies exports offline: with a file and a public key it says whether a history is the signed one. It uses no
//! server. `annals audit` and the program `annals-verify` are made of it.
//!
//! Layout: `command` is the command line, with its output; `export_file` reads files; `schema_check` checks payloads
//! against the schemas in a file; `report` is the page about a period; `error` is why a file cannot be used.

mod command;
mod error;
pub mod export_file;
pub mod report;
pub mod schema_check;

pub use command::Verify;
pub use error::{Error, KnownError};
