//! JSON Schemas of tenants: the supported part of JSON Schema 2020-12, and checking data with it.
//! The product runs a schema as a program of a tenant. So its size, references, patterns and work are limited before it
//! is stored, and each check has a budget. Numbers are compared by their exact value.
//!
//! - `expansion` resolves references.
//! - `compiling` makes the checks, `patterns` the automata.
//! - `checking` runs them.
//! - `limits` and `error` are shared by all.

mod checking;
mod compiling;
mod error;
mod expansion;
mod limits;
mod patterns;

use std::sync::Arc;

use schemas::engine::{Json, JsonText};

pub use checking::{Budget, InvalidData};
pub use error::InvalidSchema;
pub use expansion::expand;
pub use limits::{EXPANDED_BYTES_MAX, SCHEMA_BYTES_MAX};

use compiling::Program;

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

#[cfg(test)]
mod tests;
