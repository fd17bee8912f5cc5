//! One tenant's log as a `cqrs_es::EventStore`. Aggregates that were written for that crate run on it unchanged, with
//! `cqrs_es::CqrsFramework` or with anything else that takes an event store:
//!
//! ```no_run
//! # async fn example<A>(tenant: store::TenantStore, command: A::Command) -> Result<(), cqrs_es::AggregateError<A::Error>>
//! # where A: cqrs_es::Aggregate<Services = ()> {
//! // Streams `bank.account/<id>`, events `bank.account.<event>.v1`.
//! let events = commands::TenantEventStore::<A>::foreign(tenant, "bank.account");
//! let framework = cqrs_es::CqrsFramework::new(events, vec![], ());
//! framework.execute("01a22e7c-3696-7403-b047-5e89627f3bef", command).await
//! # }
//! ```
//!
//! The product's own aggregates run there as [`CqrsAggregate`].

use std::collections::HashMap;
use std::error::Error;

use cqrs_es::event_sink::EventSink;
use cqrs_es::{Aggregate, AggregateContext, AggregateError, DomainEvent, EventEnvelope, EventStore};
use futures::TryStreamExt;
use schemas::engine::metadata::parse_traceparent;
use schemas::engine::{Actor, EventType, InvalidValue, Metadata, RecordedEvent, RequestId, StreamName, ids};
use serde::{Deserialize, Serialize};
use store::{AppendError, ExpectedVersion, NewEvent, Reservation, StoreError, StreamAppend, TenantStore};

use super::decider::{DecideError, Decider, Facts, decide, reservation_changes};
use super::loading;

type Cause = Box<dyn Error + Send + Sync>;

/// A `cqrs_es::EventStore` over one tenant's log. Expected versions are checked at commit, as in every append.
///
/// Of the metadata passed to `execute_with_metadata`, only `actor`, `command_id`, `correlation_id`, `causation_id`,
/// `request_id` and `traceparent` are recorded, if they are well formed.
/// Other metadata is dropped: free text could be personal data that cannot be erased.
pub struct TenantEventStore<A: Aggregate> {
    tenant: TenantStore,
    category: String,
    codec: Codec<A>,
}

/// Encoder and decoder of one kind of event, and the values that must be unique in a state.
struct Codec<A: Aggregate> {
    encode: fn(&str, &A::Event) -> Result<NewEvent, Cause>,
    decode: fn(&RecordedEvent) -> Result<A::Event, Cause>,
    reserved: fn(&A) -> Vec<Reservation>,
}

/// An aggregate of the product as a cqrs-es aggregate: its state and its version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CqrsAggregate<A> {
    /// The state.
    pub state: A,
    /// The number of events; 0 before the first one.
    pub version: u64,
}

impl<A: Decider> Aggregate for CqrsAggregate<A> {
    const TYPE: &'static str = A::CATEGORY;
    type Command = A::Command;
    type Event = A::Event;
    type Error = DecideError<A::Rejection>;
    type Services = ();

    async fn handle(
        &mut self,
        command: A::Command,
        _services: &(),
        sink: &EventSink<Self>,
    ) -> Result<(), Self::Error> {
        for event in decide(&self.state, self.version, command, &Facts::now())? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: A::Event) {
        self.state.apply(event);
        self.version += 1;
    }
}

impl<A: Decider> TenantEventStore<CqrsAggregate<A>> {
    /// For an aggregate of the product. It writes the same streams as the executor, with reservations.
    pub fn new(tenant: TenantStore) -> Self {
        let codec = Codec {
            encode: |_, event| Ok(NewEvent::encode(event)?),
            decode: |recorded| Ok(loading::decode(recorded)?),
            reserved: |aggregate: &CqrsAggregate<A>| aggregate.state.reserved(),
        };
        Self { tenant, category: A::CATEGORY.to_owned(), codec }
    }
}

impl<A: Aggregate> TenantEventStore<A> {
    /// For an aggregate that does not depend on Annals. `category` is `<context>.<aggregate>`.
    /// An event is stored in its serde form, under the type `<category>.<event type in snake case>.v<major version>`.
    pub fn foreign(tenant: TenantStore, category: &str) -> Self {
        let codec = Codec {
            encode: encode_foreign::<A::Event>,
            decode: |recorded| Ok(serde_json::from_slice(&recorded.payload)?),
            reserved: |_| Vec::new(),
        };
        Self { tenant, category: category.to_owned(), codec }
    }

    fn stream(&self, aggregate_id: &str) -> Result<StreamName, InvalidValue> {
        StreamName::parse(&format!("{}/{aggregate_id}", self.category))
    }

    async fn read(&self, aggregate_id: &str) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        let stream = self.stream(aggregate_id).map_err(unexpected)?;
        let recorded: Vec<RecordedEvent> =
            self.tenant.read_stream(&stream, 1).try_collect().await.map_err(from_store)?;
        recorded
            .iter()
            .map(|recorded| {
                Ok(EventEnvelope {
                    aggregate_id: aggregate_id.to_owned(),
                    sequence: recorded.version as usize,
                    payload: (self.codec.decode)(recorded).map_err(AggregateError::DeserializationError)?,
                    metadata: metadata_map(&recorded.metadata),
                })
            })
            .collect()
    }
}

/// An aggregate with the version that its commit expects.
pub struct TenantAggregateContext<A> {
    aggregate_id: String,
    aggregate: A,
    version: u64,
    /// The values that it held when it was loaded.
    reserved: Vec<Reservation>,
}

impl<A: Aggregate> AggregateContext<A> for TenantAggregateContext<A> {
    fn aggregate(&mut self) -> &mut A {
        &mut self.aggregate
    }
}

impl<A: Aggregate> EventStore<A> for TenantEventStore<A> {
    type AC = TenantAggregateContext<A>;

    async fn load_events(
        &self,
        aggregate_id: &str,
    ) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        self.read(aggregate_id).await
    }

    async fn load_aggregate(&self, aggregate_id: &str) -> Result<Self::AC, AggregateError<A::Error>> {
        let (mut aggregate, mut version) = (A::default(), 0);
        for envelope in self.read(aggregate_id).await? {
            version = envelope.sequence as u64;
            aggregate.apply(envelope.payload);
        }
        let reserved = (self.codec.reserved)(&aggregate);
        Ok(TenantAggregateContext { aggregate_id: aggregate_id.to_owned(), aggregate, version, reserved })
    }

    async fn commit(
        &self,
        events: Vec<A::Event>,
        context: Self::AC,
        metadata: HashMap<String, String>,
    ) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let TenantAggregateContext { aggregate_id, aggregate, version, reserved } = context;
        let stream = self.stream(&aggregate_id).map_err(unexpected)?;
        let encoded = events
            .iter()
            .map(|event| (self.codec.encode)(&self.category, event))
            .collect::<Result<Vec<_>, _>>()
            .map_err(AggregateError::UnexpectedError)?;
        let metadata = metadata_from(&metadata);
        let recorded_metadata = metadata_map(&metadata);
        let expected = if version == 0 { ExpectedVersion::NoStream } else { ExpectedVersion::Exact(version) };
        // `EventSink::write` has applied the events to the aggregate.
        let (reservations, releases) = reservation_changes(reserved, (self.codec.reserved)(&aggregate));
        let append =
            StreamAppend { reservations, releases, ..StreamAppend::new(stream, expected, encoded, metadata) };
        self.tenant.append(append).await.map_err(from_append)?;
        let envelopes = events.into_iter().zip(version + 1..).map(|(payload, version)| EventEnvelope {
            aggregate_id: aggregate_id.clone(),
            sequence: version as usize,
            payload,
            metadata: recorded_metadata.clone(),
        });
        Ok(envelopes.collect())
    }
}

fn encode_foreign<E: DomainEvent>(category: &str, event: &E) -> Result<NewEvent, Cause> {
    let version = event.event_version();
    let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(1).max(1);
    let event_type = EventType::parse(&format!("{category}.{}.v{major}", snake_case(&event.event_type())))?;
    Ok(NewEvent {
        event_id: None,
        event_type,
        payload: serde_json::to_vec(event)?.into(),
        subject_keys: Vec::new(),
    })
}

/// Converts `CustomerNameAdded` to `customer_name_added`. Characters other than letters and digits become underscores.
fn snake_case(text: &str) -> String {
    let mut snake = String::with_capacity(text.len() + 4);
    for c in text.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() && !snake.ends_with('_') {
            snake.push('_');
        }
        snake.push(if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' });
    }
    snake
}

fn metadata_from(map: &HashMap<String, String>) -> Metadata {
    let id = |name: &str| map.get(name).and_then(|text| text.parse().ok());
    let command_id = id("command_id").unwrap_or_else(ids::new_id);
    Metadata {
        actor: map.get("actor").map_or_else(|| Actor::system("cqrs-es"), Actor::recorded),
        command_id,
        correlation_id: id("correlation_id").unwrap_or(command_id),
        causation_id: id("causation_id"),
        request_id: map.get("request_id").and_then(|text| RequestId::parse(text)),
        traceparent: map.get("traceparent").and_then(|text| parse_traceparent(text)),
    }
}

fn metadata_map(metadata: &Metadata) -> HashMap<String, String> {
    let fields = [
        ("actor", Some(metadata.actor.to_string())),
        ("command_id", Some(metadata.command_id.to_string())),
        ("correlation_id", Some(metadata.correlation_id.to_string())),
        ("causation_id", metadata.causation_id.map(|id| id.to_string())),
        ("request_id", metadata.request_id.as_ref().map(ToString::to_string)),
        ("traceparent", metadata.traceparent.clone()),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn from_store<E: Error>(error: StoreError) -> AggregateError<E> {
    match error {
        error @ StoreError::Corrupt(_) => AggregateError::DeserializationError(Box::new(error)),
        error => AggregateError::DatabaseConnectionError(Box::new(error)),
    }
}

fn from_append<E: Error>(error: AppendError) -> AggregateError<E> {
    match error {
        AppendError::VersionConflict { .. } => AggregateError::AggregateConflict,
        AppendError::Unavailable(error) => from_store(error),
        error @ AppendError::Overloaded => AggregateError::DatabaseConnectionError(Box::new(error)),
        error => AggregateError::UnexpectedError(Box::new(error)),
    }
}

fn unexpected<E: Error>(error: InvalidValue) -> AggregateError<E> {
    AggregateError::UnexpectedError(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_event_type_becomes_a_token() {
        for (given, token) in [
            ("CustomerNameAdded", "customer_name_added"),
            ("deposited", "deposited"),
            ("Money Sent", "money_sent"),
            ("HTTP", "h_t_t_p"),
        ] {
            assert_eq!(snake_case(given), token);
        }
    }

    #[test]
    fn known_metadata_survives_and_the_rest_does_not() {
        let given = HashMap::from([
            ("actor".to_owned(), "user:1".to_owned()),
            ("request_id".to_owned(), "r-1".to_owned()),
            ("remark".to_owned(), "free text".to_owned()),
        ]);
        let kept = metadata_map(&metadata_from(&given));
        assert_eq!(kept.get("actor").map(String::as_str), Some("user:1"));
        assert_eq!(kept.get("request_id").map(String::as_str), Some("r-1"));
        assert!(!kept.contains_key("remark"));
        assert_eq!(kept.get("command_id"), kept.get("correlation_id"));
    }
}
