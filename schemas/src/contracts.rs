//! The published contracts of events: a JSON Schema for each released type, and the AsyncAPI document. Both are
//! generated from the vocabulary and committed (`schemas/json/`, `schemas/asyncapi.json`); tests compare them.

mod asyncapi;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::Schema;
use serde_json::{Map, Value};

use crate::crm::customer::CustomerEvent;
use crate::engine::json_schema::schema_of;
use crate::engine::{AnyEvents, RecordedEvent, Registry};
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

pub use asyncapi::document;

/// The committed AsyncAPI document, as the gateway serves it.
pub const ASYNCAPI: &str = include_str!("../asyncapi.json");

/// The events of every aggregate.
pub static EVENTS: Registry<AnyEvents> = Registry::of(&[
    AnyEvents::of::<TenantEvent>(),
    AnyEvents::of::<UserEvent>(),
    AnyEvents::of::<CustomerEvent>(),
    AnyEvents::of::<EventTypeEvent>(),
    AnyEvents::of::<ServiceTokenEvent>(),
    AnyEvents::of::<LogEvent>(),
    AnyEvents::of::<SubjectEvent>(),
]);

/// The sagas whose events have been released.
pub const PROCESSES: &[&str] = &["customer_onboarding"];

/// Every released event type with the schema of its payload, ordered by name.
pub fn vocabulary() -> Vec<(String, Value)> {
    let released = EVENTS.iter().flat_map(|events| (events.schemas)());
    let mut types: Vec<(String, Schema)> = released.map(|(name, schema)| (name.to_owned(), schema)).collect();
    for process in PROCESSES {
        types.extend(SagaFact::ALL.map(|fact| {
            let schema = match fact {
                SagaFact::Reacted => schema_of::<SagaReacted>(),
                SagaFact::StepCompleted => schema_of::<SagaStepCompleted>(),
                SagaFact::StepFailed => schema_of::<SagaStepFailed>(),
                SagaFact::StepDiscarded => schema_of::<SagaStepDiscarded>(),
                SagaFact::TimerFired => schema_of::<SagaTimer>(),
                SagaFact::CompensationStarted => schema_of::<SagaCompensationStarted>(),
            };
            let name = fact.event_type(process).expect("the released processes have valid names");
            (name.to_string(), schema)
        }));
    }
    types.sort_by(|(one, _), (other, _)| one.cmp(other));
    types.into_iter().map(|(name, schema)| (name, schema.to_value())).collect()
}

/// The events before the first one that only a newer version of the program knows: its category is the product's own.
/// A consumer stops there, because the newer version may process the event.
pub fn known_prefix(events: &[RecordedEvent]) -> &[RecordedEvent] {
    let is_unknown = |event: &RecordedEvent| {
        EVENTS
            .iter()
            .any(|own| own.category == event.stream.category() && !own.knows(event.event_type.as_str()))
    };
    &events[..events.iter().position(is_unknown).unwrap_or(events.len())]
}

/// The schema of a released type's payload; `None` for other types.
pub fn schema(event_type: &str) -> Option<&'static Map<String, Value>> {
    static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| vocabulary().into_iter().collect());
    SCHEMAS.get(event_type)?.as_object()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use serde_json::json;

    use uuid::Uuid;

    use super::*;
    use crate::engine::{Actor, EventType, LogId, Metadata, StreamName, sealed};

    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    fn pretty(value: &Value) -> String {
        let mut text = serde_json::to_string_pretty(value).expect("serialises");
        text.push('\n');
        text
    }

    /// Changed text is written next to the committed file for review, as for the GraphQL schema.
    fn compare(committed: &Path, current: &str) -> Option<String> {
        if fs::read_to_string(committed).is_ok_and(|text| text == current) {
            return None;
        }
        let new = committed.with_extension("json.new");
        fs::write(&new, current).expect("the crate's folder can be written");
        Some(format!("review {} and move it over {}", new.display(), committed.display()))
    }

    #[test]
    fn the_committed_schemas_are_current() {
        let changed: Vec<String> = vocabulary()
            .iter()
            .filter_map(|(name, schema)| {
                compare(&folder("json").join(format!("{name}.json")), &pretty(schema))
            })
            .collect();
        assert!(changed.is_empty(), "schemas have changed:\n{}", changed.join("\n"));
        let known: BTreeSet<String> =
            vocabulary().into_iter().map(|(name, _)| format!("{name}.json")).collect();
        let found: BTreeSet<String> = fs::read_dir(folder("json"))
            .expect("the folder is there")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
            .collect();
        assert_eq!(found, known, "a type that was released once is never taken out of the vocabulary");
    }

    #[test]
    fn the_committed_asyncapi_document_is_current() {
        let changed = compare(&folder("asyncapi.json"), &pretty(&document()));
        assert!(changed.is_none(), "the document has changed: {}", changed.unwrap_or_default());
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        fn walk<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str));
                    map.values().for_each(|value| walk(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = Vec::new();
        walk(&document, &mut found);
        assert!(found.len() > 100, "{}", found.len());
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("references stay within the document");
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }

    /// The sample with its personal data decrypted, encrypted and erased.
    fn as_readers_get_it(sample: Value) -> Vec<Value> {
        let subject = "0198c0de-0000-7000-8000-000000000001";
        let segment =
            json!({"alg": "A256GCM", "subject": subject, "key": subject, "nonce": "AA==", "ct": "AA=="});
        let instead = |member: &str, value: Value| {
            let mut sample = sample.clone();
            if let Some(fields) = sample.as_object_mut()
                && fields.remove(sealed::OPEN).is_some()
            {
                fields.insert(member.to_owned(), value);
            }
            sample
        };
        let mut open = sample.clone();
        sealed::spread(&mut open);
        vec![open, instead(sealed::SEALED, segment), instead(sealed::ERASED, json!({"subject": subject}))]
    }

    #[test]
    fn every_sample_is_valid_and_every_schema_refuses_something() {
        for (name, schema) in vocabulary() {
            let validator = jsonschema::draft202012::new(&schema).expect("a schema");
            let sample =
                fs::read(folder("samples").join(format!("{name}.json"))).expect("every type has a sample");
            for sample in as_readers_get_it(serde_json::from_slice(&sample).expect("JSON")) {
                let errors: Vec<String> =
                    validator.iter_errors(&sample).map(|error| error.to_string()).collect();
                assert!(errors.is_empty(), "{name}: {errors:?}");
            }
            assert!(!validator.is_valid(&Value::from("text")), "{name} accepts anything");
            let text = schema.to_string();
            assert!(!text.contains("\"$ref\""), "{name} refers to elsewhere");
            assert!(schema["description"].is_string(), "{name} is not described");
        }
    }

    /// `#[events]` sees the personal data of the newest versions only.
    #[test]
    fn an_aggregate_whose_older_events_have_personal_data_has_some_in_its_newest_too() {
        for events in EVENTS.iter() {
            let with_personal_data: Vec<&str> = (events.schemas)()
                .iter()
                .filter(|(_, schema)| schema.as_value().to_string().contains(sealed::ERASED))
                .map(|(name, _)| *name)
                .collect();
            assert_eq!(events.has_personal_data, !with_personal_data.is_empty(), "{with_personal_data:?}");
        }
    }

    #[test]
    fn a_type_of_an_own_category_that_is_unknown_ends_the_known_events_and_others_do_not() {
        let event = |stream: &str, event_type: &str| RecordedEvent {
            log_id: LogId(Uuid::nil()),
            position: 1,
            stream: StreamName::parse(stream).expect("a valid name"),
            version: 1,
            event_id: Uuid::nil(),
            event_type: EventType::parse(event_type).expect("a valid type"),
            recorded_at: chrono::DateTime::UNIX_EPOCH,
            payload: bytes::Bytes::new(),
            metadata: Metadata::new(Actor::anonymous(), Uuid::nil()),
        };
        let events = [
            event("ext.loyalty.account/1", "ext.loyalty.account.opened.v7"),
            event("crm.customer/1", "crm.customer.registered.v1"),
            event("crm.customer/1", "crm.customer.registered.v2"),
            event("crm.customer/1", "crm.customer.renamed.v1"),
        ];
        assert_eq!(known_prefix(&events), &events[..2]);
        assert_eq!(known_prefix(&events[2..]), &[]);
        assert_eq!(known_prefix(&events[..2]), &events[..2]);
    }
}
