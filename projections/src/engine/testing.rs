//! Recorded events without a store, for tests of folds.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use schemas::engine::{Actor, Event, EventType, LogId, Metadata, RecordedEvent, StreamName};
use uuid::Uuid;

/// The time of position `n`.
pub(crate) fn at(n: u64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + n as i64, 0).expect("a valid time")
}

/// The events of one aggregate, as if the log held no others.
pub(crate) fn recorded<E: Event>(id: Uuid, events: &[E]) -> Vec<RecordedEvent> {
    let recorded = |(event, position): (&E, u64)| RecordedEvent {
        log_id: LogId(Uuid::from_u128(1)),
        position,
        stream: StreamName::new(E::CATEGORY, id),
        version: position,
        event_id: Uuid::from_u128(u128::from(position)),
        event_type: EventType::parse(event.type_name()).expect("a valid type"),
        recorded_at: at(position),
        payload: Bytes::from(event.encode().expect("encodes")),
        metadata: Metadata::new(Actor::system("test"), Uuid::nil()),
    };
    events.iter().zip(1..).map(recorded).collect()
}
