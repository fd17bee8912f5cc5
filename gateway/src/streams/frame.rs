//! Events encoded for streams. Each event is encoded once for all followers.

use std::sync::Arc;

use axum::extract::ws::Utf8Bytes;
use bytes::Bytes;
use schemas::engine::{DecodeError, Event, EventType, RecordedEvent, StreamName, TenantSlug};
use schemas::privacy::subject::SubjectEvent;
use store::{LogFilter, StoreError, StreamFilter, TenantStore};

/// The bytes of an event for both protocols.
#[derive(Debug)]
pub struct EncodedFrame {
    /// For server-sent events: the lines `id:` and `data:`.
    pub sse: Bytes,
    /// For WebSockets: `{"type":"event","event":{...}}`.
    pub message: Utf8Bytes,
}

/// One encoded event.
#[derive(Debug)]
pub struct Frame {
    /// The event's position in the log.
    pub position: u64,
    /// The event as stored, with its personal data encrypted.
    stored: EncodedFrame,
    /// The event with its personal data decrypted, if it has any.
    opened: Option<EncodedFrame>,
    /// Whether the event records an erasure. Events that were decrypted before must then be discarded.
    pub is_erasure: bool,
    event_type: EventType,
    stream: StreamName,
}

impl Frame {
    /// Encodes events of a tenant, in the given order.
    pub async fn from_events(
        tenant: &TenantStore,
        slug: &TenantSlug,
        events: Vec<RecordedEvent>,
    ) -> Result<Vec<Arc<Self>>, FrameError> {
        let opened = tenant.open_for_readers(events.clone()).await?;
        let frames = events.iter().zip(&opened).map(|(event, opened)| Self::of(event, opened, slug));
        Ok(frames.collect::<Result<_, _>>()?)
    }

    /// Encodes an event as stored, and with its personal data decrypted.
    fn of(
        stored: &RecordedEvent,
        opened: &RecordedEvent,
        slug: &TenantSlug,
    ) -> Result<Arc<Self>, DecodeError> {
        let opened =
            if opened.payload == stored.payload { None } else { Some(EncodedFrame::of(opened, slug)?) };
        Ok(Arc::new(Self {
            position: stored.position,
            stored: EncodedFrame::of(stored, slug)?,
            opened,
            is_erasure: stored.stream.category() == SubjectEvent::CATEGORY,
            event_type: stored.event_type.clone(),
            stream: stored.stream.clone(),
        }))
    }

    /// The encoded event for a follower that may or may not read personal data.
    pub fn encoded(&self, personal_data: bool) -> &EncodedFrame {
        self.opened.as_ref().filter(|_| personal_data).unwrap_or(&self.stored)
    }

    /// Approximate size in memory, in bytes.
    pub fn size(&self) -> usize {
        let opened = self.opened.as_ref().map_or(0, EncodedFrame::size);
        self.stored.size() + opened + size_of::<Self>()
    }

    /// Whether the event passes a follower's filter.
    pub fn matches(&self, filter: &LogFilter) -> bool {
        let of_type = filter.types.is_empty()
            || filter.types.iter().any(|pattern| pattern.matches(self.event_type.as_str()));
        of_type
            && match &filter.stream {
                None => true,
                Some(StreamFilter::Exact(stream)) => *stream == self.stream,
                Some(StreamFilter::Category(category)) => self.stream.category() == category,
            }
    }
}

/// Why events cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A stored event is not valid JSON.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Encryption keys are unavailable, or stored data cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EncodedFrame {
    fn of(event: &RecordedEvent, tenant: &TenantSlug) -> Result<Self, DecodeError> {
        let encoded = serde_json::to_string(&event.to_cloud_event(tenant)?);
        let encoded = encoded
            .map_err(|source| DecodeError { event_type: event.event_type.to_string(), source })?
            // In stored JSON, line breaks occur only between tokens, where they have no meaning. In server-sent events
            // they would end the line.
            .replace(['\n', '\r'], " ");
        Ok(Self {
            sse: format!("id: {}\ndata: {encoded}\n\n", event.position).into(),
            message: format!(r#"{{"type":"event","event":{encoded}}}"#).into(),
        })
    }

    fn size(&self) -> usize {
        self.sse.len() + self.message.as_str().len()
    }
}

#[cfg(test)]
pub mod testing {
    use schemas::engine::{Actor, LogId, Metadata, clock, ids};

    use super::*;

    fn category(event_type: &str) -> &str {
        let fact = event_type.rsplit_once(".v").map_or(event_type, |(fact, _)| fact);
        fact.rsplit_once('.').map_or(fact, |(category, _)| category)
    }

    /// A frame at a position.
    pub fn frame(position: u64, event_type: &str, payload: &str) -> Arc<Frame> {
        let event = RecordedEvent {
            log_id: LogId(ids::random_id()),
            position,
            stream: StreamName::parse(&format!("{}/1", category(event_type))).expect("a stream"),
            version: position,
            event_id: ids::new_id(),
            event_type: EventType::parse(event_type).expect("a type"),
            recorded_at: clock::now(),
            payload: payload.to_owned().into(),
            metadata: Metadata::new(Actor::system("test"), ids::new_id()),
        };
        Frame::of(&event, &event, &TenantSlug::parse("acme").expect("a slug")).expect("JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::testing::frame;
    use super::*;

    #[test]
    fn an_event_is_one_line_of_data_and_one_message() {
        let frame = frame(7, "crm.customer.registered.v1", "{\n \"name\": \"Ada\"\r\n}");
        let sse = std::str::from_utf8(&frame.encoded(true).sse).expect("text");
        let lines: Vec<&str> = sse.split('\n').collect();
        assert_eq!((lines[0], &lines[2..]), ("id: 7", &["", ""][..]));
        let data: serde_json::Value =
            serde_json::from_str(lines[1].strip_prefix("data: ").expect("data")).expect("JSON");
        assert_eq!((&data["position"], &data["data"]["name"]), (&"7".into(), &"Ada".into()));
        let message: serde_json::Value =
            serde_json::from_str(frame.encoded(false).message.as_str()).expect("JSON");
        assert_eq!((&message["type"], &message["event"]), (&"event".into(), &data));
    }

    #[test]
    fn filters_are_those_of_the_log() {
        let frame = frame(1, "crm.customer.registered.v1", "{}");
        let matches = |types: &[&str], stream: Option<&str>| {
            frame.matches(&LogFilter {
                types: types.iter().map(|pattern| pattern.parse().expect("a pattern")).collect(),
                stream: stream.map(|stream| stream.parse().expect("a stream")),
            })
        };
        assert!(matches(&[], None));
        assert!(matches(&["identity.>", "crm.*.registered.v1"], Some("crm.customer/*")));
        assert!(matches(&["crm.>"], Some("crm.customer/1")));
        assert!(!matches(&["identity.>"], None));
        assert!(!matches(&[], Some("crm.customer/2")));
        assert!(!matches(&[], Some("crm.custom/*")));
    }
}
