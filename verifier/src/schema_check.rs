//! Checks the payloads of an export against the schemas in it.

use std::collections::HashMap;
use std::fs::File;

use json_schema::{Budget, CompiledSchema};
use proofs::export::{Item, Part};
use proofs::frame::Entry;
use schemas::engine::{Json, JsonText};

use crate::Error;
use crate::export_file::items;

/// A payload that does not fit its schema.
#[derive(Debug)]
pub struct Mismatch<'a> {
    /// The position of the event.
    pub position: u64,
    /// Its type.
    pub event_type: &'a str,
    /// What is wrong.
    pub problem: String,
}

/// Checks all payloads in the file whose type has a schema there. Returns the number of mismatches; `found` gets each.
///
/// # Errors
/// The file cannot be read, or a schema in it cannot be used.
pub fn count_mismatches(file: File, mut found: impl FnMut(Mismatch<'_>)) -> Result<u64, Error> {
    let (mut schemas, mut mismatches) = (HashMap::<String, CompiledSchema>::new(), 0);
    for item in items(file) {
        match item? {
            Item::Schema(line) => {
                let schema = JsonText::parse(line.schema.get())?;
                match json_schema::compile(&schema) {
                    Ok(compiled) => schemas.insert(line.event_type, compiled),
                    Err(source) => return Err(Error::Schema { event_type: line.event_type, source }),
                };
            }
            Item::Event(line) => {
                let entry = Entry::decode(&line.entry.0).ok_or(Error::Entry)?;
                let (Part::Open { bytes, .. }, Some(schema)) = (&line.payload, schemas.get(entry.event_type))
                else {
                    continue;
                };
                let problem = match std::str::from_utf8(&bytes.0).ok().map(Json::parse) {
                    Some(Ok(data)) => {
                        schema.check(&data, &mut Budget::new()).into_iter().next().map(|wrong| wrong.message)
                    }
                    _ => Some("is no JSON".to_owned()),
                };
                let Some(problem) = problem else { continue };
                mismatches += 1;
                found(Mismatch { position: line.position, event_type: entry.event_type, problem });
            }
            Item::Keys(_) => {}
            Item::End(_) => break,
        }
    }
    Ok(mismatches)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_products_own_schemas_keep_to_the_limits_of_those_that_are_handed_in() {
        for (name, schema) in schemas::contracts::vocabulary() {
            let compiled = json_schema::compile(&schema.into());
            assert!(compiled.is_ok(), "{name}: {compiled:?}");
        }
    }
}
