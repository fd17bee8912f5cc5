//! JSON Schemas of tenants: the supported part of JSON Schema 2020-12, and checking data with it.
//! The product runs a schema as a program of a tenant. So its size, references, patterns and work are limited before it
//! is stored, and each check has a budget. Numbers are compared by their exact value.
//!
//! - `expansion` resolves references.
//! - `compiling` makes the checks, `patterns` the automata.
//! - `checking` runs them.

mod checking;
mod compiling;
mod expansion;
mod patterns;

use std::sync::Arc;

use schemas::engine::{Json, JsonText};

pub use checking::{Budget, InvalidData};
pub use expansion::expand;

use compiling::Program;

/// Maximum bytes of a schema, as compact JSON.
pub const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// Maximum bytes of a schema after its references are resolved.
pub const EXPANDED_BYTES_MAX: usize = 256 * 1024;
/// Maximum subschemas after references are resolved.
const SUBSCHEMAS_MAX: usize = 2_000;
/// Maximum patterns; each one becomes an automaton.
const PATTERNS_MAX: usize = 50;
const PATTERN_CHARS_MAX: usize = 500;
/// Maximum bytes of the automaton of a pattern, and of all patterns of a schema, counted once for each use.
const PATTERN_BYTES_MAX: usize = 256 * 1024;
const PATTERNS_BYTES_MAX: usize = 1024 * 1024;
const DEPTH_MAX: usize = 32;
const MESSAGE_CHARS_MAX: usize = 200;

/// Why a schema is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidSchema {
    /// The path to the keyword, separated by dots; empty for the whole schema.
    pub at: String,
    /// A message for people.
    pub message: String,
}

/// A compiled schema. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CompiledSchema {
    program: Arc<Program>,
}

/// Compiles a schema. It takes milliseconds of processor time.
///
/// # Errors
/// [`InvalidSchema`] if the schema exceeds a limit or uses an unsupported keyword.
pub fn compile(schema: &JsonText) -> Result<CompiledSchema, InvalidSchema> {
    let program = compiling::program(expand(schema)?)?;
    Ok(CompiledSchema { program: Arc::new(program) })
}

impl CompiledSchema {
    /// The errors in an event's data; empty if they are valid. The cost is taken from the budget; if the budget is
    /// exhausted, the last error says so.
    pub fn check(&self, data: &Json, budget: &mut Budget) -> Vec<InvalidData> {
        checking::check(&self.program, data, budget)
    }

    /// Its approximate memory in bytes.
    pub fn bytes(&self) -> usize {
        self.program.bytes
    }
}

fn invalid(at: &str, message: impl Into<String>) -> InvalidSchema {
    let message: String = message.into();
    InvalidSchema { at: at.to_owned(), message: message.chars().take(MESSAGE_CHARS_MAX).collect() }
}

fn path(at: &str, name: &str) -> String {
    let name: String = name.chars().take(64).collect();
    if at.is_empty() { name } else { format!("{at}.{name}") }
}

#[cfg(test)]
mod tests;
