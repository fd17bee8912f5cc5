//! The message of an event: CloudEvents 1.0 in the binary mode of the NATS protocol binding.
//! The body is the stored payload, byte for byte. The headers hold the rest, enough to rebuild the recorded event.
//! A MAC (`mac`) proves that the relay wrote the message.

mod error;
mod mac;

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use schemas::engine::recorded::timestamp;
use schemas::engine::{Actor, EventType, LogId, Metadata, RecordedEvent, RequestId, StreamName, TenantSlug};
use uuid::Uuid;

pub use self::error::MessageError;
pub use self::mac::MessageKey;
use crate::connection::SUBJECT_ROOT;
use crate::relay::stored_message::StoredMessage;

const SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");
const ID: HeaderName = HeaderName::from_static("ce-id");
const SOURCE: HeaderName = HeaderName::from_static("ce-source");
const TYPE: HeaderName = HeaderName::from_static("ce-type");
const SUBJECT: HeaderName = HeaderName::from_static("ce-subject");
const TIME: HeaderName = HeaderName::from_static("ce-time");
const TENANT: HeaderName = HeaderName::from_static("ce-tenantid");
const LOG: HeaderName = HeaderName::from_static("ce-logid");
const POSITION: HeaderName = HeaderName::from_static("ce-position");
const VERSION: HeaderName = HeaderName::from_static("ce-streamversion");
const COMMAND: HeaderName = HeaderName::from_static("ce-commandid");
const CORRELATION: HeaderName = HeaderName::from_static("ce-correlationid");
const CAUSATION: HeaderName = HeaderName::from_static("ce-causationid");
const REQUEST: HeaderName = HeaderName::from_static("ce-requestid");
const ACTOR: HeaderName = HeaderName::from_static("ce-actor");
const CONTENT_TYPE: HeaderName = HeaderName::from_static("content-type");
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A message to publish on JetStream.
#[derive(Debug, Clone, PartialEq)]
pub struct EventMessage {
    /// `events.<tenant>.<type>`
    pub subject: String,
    /// The CloudEvents attributes, and headers for NATS and tracing.
    pub headers: HeaderMap,
    /// The payload as stored.
    pub payload: Bytes,
}

/// The subject of an event type of a tenant.
pub fn subject(tenant: &TenantSlug, event_type: &EventType) -> String {
    format!("{SUBJECT_ROOT}.{tenant}.{event_type}")
}

/// The event of a message, from its headers alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventHeaders {
    /// The slug of the tenant when the event was published.
    pub tenant: TenantSlug,
    /// The log of the event.
    pub log: LogId,
    /// The position in that log.
    pub position: u64,
    /// The id of the event.
    pub event_id: Uuid,
    /// The stream of the event.
    pub stream: StreamName,
    message_id: String,
}

impl EventHeaders {
    /// Parses the headers of a message of the relay. It does not check the payload.
    ///
    /// # Errors
    /// [`MessageError`] if the relay did not write the headers.
    pub(crate) fn read(key: &MessageKey, subject: &str, headers: &HeaderMap) -> Result<Self, MessageError> {
        key.verify(subject, headers, None)?;
        let fields = Fields(headers);
        Ok(Self {
            tenant: fields.required(TENANT, "ce-tenantid")?,
            log: LogId(fields.required(LOG, "ce-logid")?),
            position: fields.required(POSITION, "ce-position")?,
            event_id: fields.required(ID, "ce-id")?,
            stream: fields.required(SUBJECT, "ce-subject")?,
            message_id: fields.required(async_nats::header::NATS_MESSAGE_ID, "Nats-Msg-Id")?,
        })
    }

    /// Whether it was published in this stream epoch.
    pub(crate) fn is_of_epoch(&self, key: &MessageKey, stream_epoch: u32) -> bool {
        self.message_id == key.message_id(self.log, self.position, stream_epoch)
    }
}

/// Whether a stored message is this event, complete, and published in this stream epoch.
pub(crate) fn is_message_of(
    key: &MessageKey,
    found: &StoredMessage,
    tenant: &TenantSlug,
    event: &RecordedEvent,
    stream_epoch: u32,
) -> bool {
    let sent = encode(key, tenant, event, stream_epoch).headers;
    found.headers.as_ref().is_ok_and(|headers| {
        // An equal MAC that matches the stored bytes means an equal message.
        headers.get(mac::MAC) == sent.get(mac::MAC)
            && key.verify(&found.subject, headers, Some(&found.payload)).is_ok()
    })
}

/// The message of an event.
pub fn encode(
    key: &MessageKey,
    tenant: &TenantSlug,
    event: &RecordedEvent,
    stream_epoch: u32,
) -> EventMessage {
    let subject = subject(tenant, &event.event_type);
    let mut headers = HeaderMap::new();
    let mut set = |name: HeaderName, value: String| headers.insert(name, header_value(value));
    set(async_nats::header::NATS_MESSAGE_ID, key.message_id(event.log_id, event.position, stream_epoch));
    set(SPECVERSION, "1.0".to_owned());
    set(ID, event.event_id.to_string());
    set(SOURCE, format!("/tenants/{tenant}"));
    set(TYPE, event.event_type.to_string());
    set(SUBJECT, event.stream.to_string());
    set(TIME, timestamp(event.recorded_at));
    set(TENANT, tenant.to_string());
    set(LOG, event.log_id.to_string());
    set(POSITION, event.position.to_string());
    set(VERSION, event.version.to_string());
    set(COMMAND, event.metadata.command_id.to_string());
    set(CORRELATION, event.metadata.correlation_id.to_string());
    if let Some(causation) = event.metadata.causation_id {
        set(CAUSATION, causation.to_string());
    }
    if let Some(request) = &event.metadata.request_id {
        set(REQUEST, request.to_string());
        set(REQUEST_ID, request.to_string());
    }
    set(ACTOR, percent_encode(event.metadata.actor.as_str()));
    set(CONTENT_TYPE, "application/json".to_owned());
    if let Some(traceparent) = &event.metadata.traceparent {
        set(TRACEPARENT, percent_encode(traceparent));
    }
    let mac = key.header(&subject, &headers, &event.payload);
    headers.insert(mac::MAC, mac);
    EventMessage { subject, headers, payload: event.payload.clone() }
}

/// Decodes a message of the relay into its event and its tenant.
///
/// # Errors
/// [`MessageError`] if the relay did not write the message.
pub fn decode(
    key: &MessageKey,
    subject_found: &str,
    headers: Option<&HeaderMap>,
    payload: Bytes,
) -> Result<(TenantSlug, RecordedEvent), MessageError> {
    let headers = headers.ok_or(MessageError::NoMac)?;
    key.verify(subject_found, headers, Some(&payload))?;
    let fields = Fields(headers);
    let tenant: TenantSlug = fields.required(TENANT, "ce-tenantid")?;
    let event_type: EventType = fields.required(TYPE, "ce-type")?;
    if subject(&tenant, &event_type) != subject_found {
        return Err(MessageError::SubjectDiffers);
    }
    let time: DateTime<Utc> = fields.required(TIME, "ce-time")?;
    let actor = percent_decode(fields.text(ACTOR).ok_or(MessageError::Missing("ce-actor"))?)
        .ok_or(MessageError::Invalid("ce-actor"))?;
    let request_id = match fields.text(REQUEST) {
        Some(text) => Some(RequestId::parse(text).ok_or(MessageError::Invalid("ce-requestid"))?),
        None => None,
    };
    let traceparent = match fields.text(TRACEPARENT) {
        Some(text) => Some(percent_decode(text).ok_or(MessageError::Invalid("traceparent"))?),
        None => None,
    };
    let metadata = Metadata {
        actor: Actor::recorded(actor),
        command_id: fields.required(COMMAND, "ce-commandid")?,
        correlation_id: fields.required(CORRELATION, "ce-correlationid")?,
        causation_id: fields.optional(CAUSATION, "ce-causationid")?,
        request_id,
        traceparent,
    };
    let event = RecordedEvent {
        log_id: LogId(fields.required(LOG, "ce-logid")?),
        position: fields.required(POSITION, "ce-position")?,
        stream: fields.required::<StreamName>(SUBJECT, "ce-subject")?,
        version: fields.required(VERSION, "ce-streamversion")?,
        event_id: fields.required::<Uuid>(ID, "ce-id")?,
        event_type,
        recorded_at: time,
        payload,
        metadata,
    };
    Ok((tenant, event))
}

struct Fields<'a>(&'a HeaderMap);

impl<'a> Fields<'a> {
    fn text(&self, name: HeaderName) -> Option<&'a str> {
        self.0.get(name).map(HeaderValue::as_str)
    }

    fn optional<T: std::str::FromStr>(
        &self,
        name: HeaderName,
        label: &'static str,
    ) -> Result<Option<T>, MessageError> {
        self.text(name).map(|text| text.parse().map_err(|_| MessageError::Invalid(label))).transpose()
    }

    fn required<T: std::str::FromStr>(
        &self,
        name: HeaderName,
        label: &'static str,
    ) -> Result<T, MessageError> {
        self.optional(name, label)?.ok_or(MessageError::Missing(label))
    }
}

fn header_value(text: String) -> HeaderValue {
    // Every value consists of checked names and ids, or was percent-encoded before.
    text.parse().expect("header values hold no line breaks")
}

/// Percent-encodes a header value as section 3.1.3.2 of the CloudEvents HTTP binding says, which the NATS binding
/// adopts.
/// Encoded are space, quote, percent sign, and everything that is not printable ASCII.
fn percent_encode(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'%') {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes all text");
        }
    }
    encoded
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event() -> RecordedEvent {
        let id = |n: u128| Uuid::from_u128(n);
        RecordedEvent {
            log_id: LogId(id(1)),
            position: 42,
            stream: StreamName::new("identity.user", id(2)),
            version: 1,
            event_id: id(3),
            event_type: EventType::parse("identity.user.registered.v1").expect("a valid type"),
            recorded_at: DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("in range"),
            payload: Bytes::from_static(br#"{"email":"ada@example.com" }"#),
            metadata: Metadata {
                actor: Actor::user(id(4)),
                command_id: id(5),
                correlation_id: id(6),
                causation_id: Some(id(7)),
                request_id: RequestId::parse("req-1"),
                traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
            },
        }
    }

    fn key() -> MessageKey {
        MessageKey::of(&store::DeploymentKey::from_hex(&"ab".repeat(32)).expect("a key"))
    }

    fn tenant() -> TenantSlug {
        TenantSlug::parse("acme").expect("a valid slug")
    }

    #[test]
    fn subject_and_headers_are_those_of_the_contract() {
        let message = encode(&key(), &tenant(), &event(), 3);
        assert_eq!(message.subject, "events.acme.identity.user.registered.v1");
        let header =
            |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
        let expected = [
            ("ce-specversion", "1.0"),
            ("ce-id", "00000000-0000-0000-0000-000000000003"),
            ("ce-source", "/tenants/acme"),
            ("ce-type", "identity.user.registered.v1"),
            ("ce-subject", "identity.user/00000000-0000-0000-0000-000000000002"),
            ("ce-time", "2023-11-14T22:13:20.123456Z"),
            ("ce-tenantid", "acme"),
            ("ce-logid", "00000000-0000-0000-0000-000000000001"),
            ("ce-position", "42"),
            ("ce-streamversion", "1"),
            ("ce-correlationid", "00000000-0000-0000-0000-000000000006"),
            ("ce-causationid", "00000000-0000-0000-0000-000000000007"),
            ("ce-requestid", "req-1"),
            ("ce-actor", "user:00000000-0000-0000-0000-000000000004"),
            ("content-type", "application/json"),
            ("request-id", "req-1"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ];
        for (name, value) in expected {
            assert_eq!(header(name), value, "{name}");
        }
        assert_eq!(header("Nats-Msg-Id"), key().message_id(event().log_id, 42, 3));
        let mac = header("annals-mac");
        let fields: Vec<usize> = mac.split('.').map(str::len).collect();
        assert_eq!(fields, [2, 8, 22, 22], "{mac}");
    }

    #[test]
    fn a_message_reads_back_as_the_event_it_was_made_of() {
        let mut bare = event();
        bare.metadata.causation_id = None;
        bare.metadata.request_id = None;
        bare.metadata.traceparent = None;
        bare.metadata.actor = Actor::recorded("a b%\r\nü\"");
        for event in [event(), bare] {
            let message = encode(&key(), &tenant(), &event, 0);
            let read =
                decode(&key(), &message.subject, Some(&message.headers), message.payload).expect("reads");
            assert_eq!(read, (tenant(), event));
        }
    }

    #[test]
    fn a_message_that_is_not_the_relays_is_refused() {
        let message = encode(&key(), &tenant(), &event(), 0);
        let read = |subject: &str, headers: Option<&HeaderMap>| {
            decode(&key(), subject, headers, message.payload.clone()).map(|_| ())
        };
        assert_eq!(read(&message.subject, Some(&message.headers)), Ok(()));
        assert_eq!(read(&message.subject, None), Err(MessageError::NoMac));
        assert_eq!(read(&message.subject, Some(&HeaderMap::new())), Err(MessageError::NoMac));
        let other = "events.globex.identity.user.registered.v1";
        assert_eq!(read(other, Some(&message.headers)), Err(MessageError::MacDiffers));
        let mut headers = message.headers.clone();
        headers.insert(POSITION, "43");
        assert_eq!(read(&message.subject, Some(&headers)), Err(MessageError::MacDiffers));
        let another = decode(&key(), &message.subject, Some(&message.headers), Bytes::from_static(b"{}"));
        assert_eq!(another.map(|_| ()), Err(MessageError::MacDiffers));
    }

    #[test]
    fn the_headers_alone_say_which_event_was_published() {
        let (message, event) = (encode(&key(), &tenant(), &event(), 3), event());
        let published = EventHeaders::read(&key(), &message.subject, &message.headers).expect("reads");
        assert_eq!((&published.tenant, published.log), (&tenant(), event.log_id));
        assert_eq!((published.position, published.event_id), (42, event.event_id));
        assert_eq!(published.stream, event.stream);
        assert!(published.is_of_epoch(&key(), 3) && !published.is_of_epoch(&key(), 2));
        let other = "events.globex.identity.user.registered.v1";
        assert!(EventHeaders::read(&key(), other, &message.headers).is_err());
    }

    proptest! {
        #[test]
        fn any_event_survives_the_round_trip(
            position in 1u64.., version in 1u64.., id: u128, log: u128, causation: Option<u128>,
            actor in ".{0,40}", request in proptest::option::of("[A-Za-z0-9._-]{1,64}"), payload: Vec<u8>,
            micros in 0i64..4_000_000_000_000_000, stream_epoch: u32,
        ) {
            let mut event = event();
            event.position = position;
            event.version = version;
            event.event_id = Uuid::from_u128(id);
            event.log_id = LogId(Uuid::from_u128(log));
            event.recorded_at = DateTime::from_timestamp_micros(micros).expect("in range");
            event.payload = payload.into();
            event.metadata.causation_id = causation.map(Uuid::from_u128);
            event.metadata.actor = Actor::recorded(actor);
            event.metadata.request_id = request.and_then(|text| RequestId::parse(&text));
            let message = encode(&key(), &tenant(), &event, stream_epoch);
            let read = decode(&key(), &message.subject, Some(&message.headers), message.payload).expect("reads");
            prop_assert_eq!(read, (tenant(), event));
        }
    }
}
