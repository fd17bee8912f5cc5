//! Tests the vocabulary with `schemas/samples/`: one JSON payload for each released event version. Each must always
//! decode, and encode to the same JSON.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::contracts::{EVENTS, PROCESSES};
use crate::saga::{
    SagaCompensationStarted, SagaFact, SagaReacted, SagaStepCompleted, SagaStepDiscarded, SagaStepFailed,
    SagaTimer,
};

type RoundTrip = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// A type, with a function that decodes its payload and encodes it again.
struct SampledType {
    name: String,
    round_trip: RoundTrip,
    /// An older version is encoded as the newest one.
    is_older: bool,
}

fn vocabulary() -> Vec<SampledType> {
    let mut entries = Vec::new();
    for events in EVENTS.iter() {
        for name in events.types.iter().chain(events.older_types) {
            let round_trip = move |payload: &[u8]| {
                (events.renew)(name, payload).expect("the payload decodes").expect("the type is known")
            };
            let is_older = events.older_types.contains(name);
            entries.push(SampledType {
                name: (*name).to_owned(),
                round_trip: Box::new(round_trip),
                is_older,
            });
        }
    }
    for process in PROCESSES {
        entries.push(fact::<SagaReacted>(process, SagaFact::Reacted));
        entries.push(fact::<SagaStepCompleted>(process, SagaFact::StepCompleted));
        entries.push(fact::<SagaStepFailed>(process, SagaFact::StepFailed));
        entries.push(fact::<SagaStepDiscarded>(process, SagaFact::StepDiscarded));
        entries.push(fact::<SagaTimer>(process, SagaFact::TimerFired));
        entries.push(fact::<SagaCompensationStarted>(process, SagaFact::CompensationStarted));
    }
    entries
}

fn fact<T: Serialize + DeserializeOwned>(process: &str, fact: SagaFact) -> SampledType {
    let round_trip = |payload: &[u8]| {
        let fact: T = serde_json::from_slice(payload).expect("the payload decodes");
        serde_json::to_vec(&fact).expect("a fact encodes")
    };
    let name = fact.event_type(process).expect("a valid type").to_string();
    SampledType { name, round_trip: Box::new(round_trip), is_older: false }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[test]
fn every_sample_decodes_and_encodes_as_it_was() {
    for SampledType { name, round_trip, is_older } in vocabulary() {
        let path = folder("samples").join(format!("{name}.json"));
        let sample = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
        let encoded = parse(&round_trip(&sample));
        assert!(is_older || encoded == parse(&sample), "{name}: {encoded}");
    }
}

#[test]
fn no_sample_is_orphaned() {
    let known: BTreeSet<String> = vocabulary().iter().map(|entry| format!("{}.json", entry.name)).collect();
    let found: BTreeSet<String> = fs::read_dir(folder("samples"))
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
        .collect();
    assert_eq!(found, known, "a type that was released once is never taken out of the vocabulary");
}

#[test]
fn every_event_enum_is_registered() {
    fn count(folder: &Path) -> usize {
        let entries =
            fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("an entry").path());
        let enums = |path: PathBuf| {
            if path.is_dir() {
                return count(&path);
            }
            let source = fs::read_to_string(&path).expect("a source file");
            source.lines().filter(|line| line.starts_with("#[events(")).count()
        };
        entries.map(enums).sum()
    }
    assert_eq!(count(&folder("src")), EVENTS.len());
}
