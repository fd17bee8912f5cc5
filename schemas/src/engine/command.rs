//! The trait of a set of commands, written by `#[commands]`.

use serde::{Serialize, de::DeserializeOwned};

use super::field::{FieldType, Input, InputReader};

/// Whether a command needs its aggregate to exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandTarget {
    /// The aggregate must not exist; the command creates it.
    New,
    /// The aggregate must exist.
    Existing,
    /// The aggregate may exist.
    NewOrExisting,
}

/// The description of a command.
#[derive(Debug)]
pub struct CommandType {
    /// Its name, such as `RegisterCustomer`.
    pub name: &'static str,
    /// Its mutation, such as `registerCustomer`.
    pub graphql_name: &'static str,
    /// Its doc comment.
    pub description: &'static str,
    /// Whether it needs its aggregate to exist.
    pub target: CommandTarget,
    /// Whether only the product itself sends it.
    pub internal: bool,
    /// Its fields; empty if it is internal.
    pub fields: &'static [FieldType],
}

/// The commands of one aggregate, written by `#[commands]`. They must not contain secrets: the idempotency digest and
/// sagas store their serialised form.
///
/// In serde's form a command is `{"name": ..., "command": ...}`.
pub trait Commands: Serialize + DeserializeOwned + Clone + PartialEq + Send + Sync + 'static {
    /// All commands.
    const TYPES: &'static [CommandType];
    /// The description of this command.
    fn command_type(&self) -> &'static CommandType;
    /// Reads the command with this name from what a client sent. Errors are added to the reader. `None` without an
    /// error: there is no such command, or it is internal.
    fn read(name: &str, reader: &mut InputReader, input: &Input) -> Option<Self>;
}
