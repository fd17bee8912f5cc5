//! JSON Schemas that tenants hand in: what of JSON Schema 2020-12 they may use, and checking data against them. A schema
//! is a program that the product runs for a tenant, so its size, its references, its patterns and the work that it makes
//! are bounded before it is kept, and the work of each check has a budget. Numbers are compared by their exact value.
//!
//! Layout: `expansion` writes references out, `compiling` makes the checks, `patterns` the automata, `checking` runs them.

mod checking;
mod compiling;
mod expansion;
mod patterns;

use std::sync::Arc;

use schemas::engine::{Json, JsonText};

pub use checking::{Budget, InvalidData};
pub use expansion::expand;

use compiling::Program;

/// The largest schema in bytes, as compact JSON.
pub const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// The largest schema in bytes once references are written out.
pub const EXPANDED_BYTES_MAX: usize = 256 * 1024;
/// The most subschemas once references are written out.
const SUBSCHEMAS_MAX: usize = 2_000;
/// The most patterns, each of which becomes an automaton.
const PATTERNS_MAX: usize = 50;
const PATTERN_CHARS_MAX: usize = 500;
/// The largest automaton of a pattern in bytes, and of all patterns of a schema, each counted wherever it is used.
const PATTERN_BYTES_MAX: usize = 256 * 1024;
const PATTERNS_BYTES_MAX: usize = 1024 * 1024;
const DEPTH_MAX: usize = 32;
const MESSAGE_CHARS_MAX: usize = 200;

/// Why a schema is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidSchema {
    /// Where, with dots; empty for the schema as a whole.
    pub at: String,
    /// For people.
    pub message: String,
}

/// A schema ready to check data. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CompiledSchema {
    program: Arc<Program>,
}

/// The schema ready to check data, where it can be used at all. Takes milliseconds of processor time.
pub fn compile(schema: &JsonText) -> Result<CompiledSchema, InvalidSchema> {
    let program = compiling::program(expand(schema)?)?;
    Ok(CompiledSchema { program: Arc::new(program) })
}

impl CompiledSchema {
    /// What is wrong with an event's data; nothing where they are valid. Takes from the budget what it costs, and ends
    /// with an error when the budget is spent.
    pub fn check(&self, data: &Json, budget: &mut Budget) -> Vec<InvalidData> {
        checking::check(&self.program, data, budget)
    }

    /// About how many bytes of memory it takes.
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
