//! Reads in one round trip: read groups over few connections.
//!
//! A group is written as `Bind` and `Execute` of each statement before one `Sync`.
//! PostgreSQL runs it as one transaction, so a setting that its first statement makes for the transaction ends with it.
//! The sessions are read-only and `repeatable read`: all statements of a group see one snapshot.
//!
//! `group` encodes, `statements` caches prepared statements, `answer` decodes into `rows`, `connection` sends groups and
//! reads their answers in order, `login` connects, and `pool` distributes the groups of many keys.

mod answer;
mod connection;
mod error;
mod group;
mod login;
mod pool;
mod queues;
mod rows;
mod statements;

pub use error::ReadError;
pub use group::{Read, Value};
pub use pool::{ReadPool, ReadPoolConfig};
pub use rows::{RawRow, RawRows};
