//! Checks the schemas of a file: each is in its place, and a registered schema equals the one in the log, if the file
//! contains the registration event.

use std::collections::{BTreeMap, HashSet};

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::error::VerifyError;
use crate::export::{Manifest, Part, REGISTRATION_EVENT_TYPES, Registration, TypeSchema};
use crate::frame::Hash;
use crate::json::Json;

/// Schemas and registrations read so far. The size depends on the number of types, not of events.
#[derive(Default)]
pub(super) struct Schemas {
    occurred: HashSet<String>,
    /// By type: for a registered schema its position in the log and its digest, otherwise `None`.
    described: BTreeMap<String, Option<(u64, Hash)>>,
    /// By position: the digest of a registration event; `None` if its payload is absent.
    registered: BTreeMap<u64, Option<Hash>>,
}

impl Schemas {
    pub(super) fn describe(&mut self, line: TypeSchema) -> Result<(), VerifyError> {
        let TypeSchema { event_type, schema, product, registered_at } = line;
        let source = match (product, registered_at) {
            (Some(_), None) => Ok(None),
            (None, Some(position)) => Ok(Some((position, digest(&event_type, &schema)))),
            _ => Err("it must say either of product and registered_at"),
        };
        let problem = match source {
            Err(problem) => problem,
            Ok(_) if self.occurred.contains(&event_type) => "it stands behind an event of its type",
            Ok(_) if self.described.contains_key(&event_type) => "there are two",
            Ok(source) => {
                self.described.insert(event_type, source);
                return Ok(());
            }
        };
        Err(VerifyError::Schema { event_type, problem })
    }

    pub(super) fn event(&mut self, position: u64, event_type: &str, payload: &Part) {
        if !self.occurred.contains(event_type) {
            self.occurred.insert(event_type.to_owned());
        }
        if !REGISTRATION_EVENT_TYPES.contains(&event_type) {
            return;
        }
        match payload {
            Part::Absent { .. } => drop(self.registered.insert(position, None)),
            Part::Open { bytes, .. } => {
                if let Some(Registration { event_type, schema }) = Registration::parse(&bytes.0) {
                    self.registered.insert(position, Some(digest(&event_type, &schema)));
                }
            }
        }
    }

    /// The number of types with a schema, after all events are verified.
    pub(super) fn end(&self, manifest: &Manifest, size: u64) -> Result<u64, VerifyError> {
        for (event_type, source) in &self.described {
            let problem = match source {
                _ if !self.occurred.contains(event_type) => "no event is of this type",
                Some((position, _)) if !(1..=size).contains(position) => "the log has no such position",
                Some((position, digest)) if !self.may_hold(manifest, *position, digest) => {
                    "the event that it names does not hold it"
                }
                _ => continue,
            };
            return Err(VerifyError::Schema { event_type: event_type.clone(), problem });
        }
        Ok(self.described.len() as u64)
    }

    fn may_hold(&self, manifest: &Manifest, position: u64, digest: &Hash) -> bool {
        match self.registered.get(&position) {
            Some(Some(registered)) => registered == digest,
            Some(None) => true,
            None => manifest.stream.is_some() || !(manifest.from..=manifest.to).contains(&position),
        }
    }
}

/// A digest that is equal for the same type and an equal schema.
fn digest(event_type: &str, schema: &RawValue) -> Hash {
    let schema = Json::parse(schema.get()).expect("it was read before").canonical();
    let mut hasher = Sha256::new();
    hasher.update(event_type.as_bytes());
    hasher.update([0]);
    hasher.update(schema);
    hasher.finalize().into()
}
