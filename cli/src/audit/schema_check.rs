//! Checks the payloads of an export against the schemas in it.

use std::collections::HashMap;
use std::fs::File;

use anyhow::Context;
use json_schema::{Budget, CompiledSchema};
use proofs::export::{Item, Part};
use proofs::frame::Entry;
use schemas::engine::{Json, JsonText};

use super::items;

/// Maximum mismatches that are printed.
const MISMATCHES_PRINTED_MAX: u64 = 20;

/// Checks all payloads in the file whose type has a schema there. Returns the number of mismatches and prints the first
/// ones on standard error.
pub(super) fn count_mismatches(file: File) -> anyhow::Result<u64> {
    let (mut schemas, mut mismatches) = (HashMap::<String, CompiledSchema>::new(), 0);
    for item in items(file) {
        match item? {
            Item::Schema(line) => {
                let schema = JsonText::parse(line.schema.get())?;
                let compiled = json_schema::compile(&schema)
                    .with_context(|| format!("the schema of {}", line.event_type))?;
                schemas.insert(line.event_type, compiled);
            }
            Item::Event(line) => {
                let entry = Entry::decode(&line.entry.0).context("an entry")?;
                let (Part::Open { bytes, .. }, Some(schema)) = (&line.payload, schemas.get(entry.event_type))
                else {
                    continue;
                };
                let wrong = match std::str::from_utf8(&bytes.0).ok().map(Json::parse) {
                    Some(Ok(data)) => {
                        schema.check(&data, &mut Budget::new()).into_iter().next().map(|wrong| wrong.message)
                    }
                    _ => Some("is no JSON".to_owned()),
                };
                let Some(wrong) = wrong else { continue };
                mismatches += 1;
                if mismatches <= MISMATCHES_PRINTED_MAX {
                    eprintln!("position {}: {} {wrong}", line.position, entry.event_type);
                }
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
