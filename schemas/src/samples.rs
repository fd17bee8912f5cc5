//! Tests the vocabulary with `schemas/samples/`: one JSON payload for each released event version. Each must always
//! decode, and encode to the same JSON.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::contracts::PROCESSES;
use crate::crm::customer::CustomerEvent;
use crate::engine::Event;
use crate::identity::tenant::TenantEvent;
use crate::identity::user::UserEvent;
use crate::integration::event_type::EventTypeEvent;
use crate::integration::service_token::ServiceTokenEvent;
use crate::platform::log::LogEvent;
use crate::privacy::subject::SubjectEvent;
use crate::saga::{
    SagaCompensationStarted, SagaFact, SagaReacted, SagaStepCompleted, SagaStepDiscarded, SagaStepFailed,
    SagaTimer,
};

/// The number of enums in `vocabulary`.
const EVENT_ENUMS_COUNT: usize = 7;

/// A type, with a function that decodes its payload and encodes it again.
type Entry = (String, Box<dyn Fn(&[u8]) -> Vec<u8>>);

fn vocabulary() -> Vec<Entry> {
    let mut entries = of::<TenantEvent>();
    entries.extend(of::<UserEvent>());
    entries.extend(of::<CustomerEvent>());
    entries.extend(of::<LogEvent>());
    entries.extend(of::<EventTypeEvent>());
    entries.extend(of::<ServiceTokenEvent>());
    entries.extend(of::<SubjectEvent>());
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

fn of<E: Event>() -> Vec<Entry> {
    let entry = |name: &&'static str| -> Entry {
        let name = *name;
        let round_trip = move |payload: &[u8]| {
            let event = E::decode(name, payload).expect("the payload decodes").expect("the type is known");
            event.encode().expect("an event encodes")
        };
        (name.to_owned(), Box::new(round_trip))
    };
    E::TYPES.iter().map(entry).collect()
}

fn fact<T: Serialize + DeserializeOwned>(process: &str, fact: SagaFact) -> Entry {
    let round_trip = |payload: &[u8]| {
        let fact: T = serde_json::from_slice(payload).expect("the payload decodes");
        serde_json::to_vec(&fact).expect("a fact encodes")
    };
    (fact.event_type(process).expect("a valid type").to_string(), Box::new(round_trip))
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[test]
fn every_sample_decodes_and_encodes_as_it_was() {
    for (name, round_trip) in vocabulary() {
        let path = folder("samples").join(format!("{name}.json"));
        let sample = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
        assert_eq!(parse(&round_trip(&sample)), parse(&sample), "{name}");
    }
}

#[test]
fn no_sample_is_orphaned() {
    let known: BTreeSet<String> = vocabulary().into_iter().map(|(name, _)| format!("{name}.json")).collect();
    let found: BTreeSet<String> = fs::read_dir(folder("samples"))
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
        .collect();
    assert_eq!(found, known, "a type that was released once is never taken out of the vocabulary");
}

#[test]
fn every_event_enum_is_listed_here() {
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
    assert_eq!(count(&folder("src")), EVENT_ENUMS_COUNT);
}
