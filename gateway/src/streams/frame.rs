//! An event in the forms in which streams send it, made once for all followers.

use std::sync::Arc;

use axum::extract::ws::Utf8Bytes;
use bytes::Bytes;
use schemas::engine::{DecodeError, Event, EventType, RecordedEvent, StreamName, TenantSlug};
use schemas::privacy::subject::SubjectEvent;
use store::{LogFilter, StoreError, StreamFilter, TenantStore};

/// An event's bytes as both ways out send it.
#[derive(Debug)]
pub struct EncodedFrame {
    /// `id:` and `data:` of a server-sent event.
    pub sse: Bytes,
    /// `{"type":"event","event":{...}}`
    pub message: Utf8Bytes,
}

/// One event, ready to be sent.
#[derive(Debug)]
pub struct Frame {
    /// Its position.
    pub position: u64,
    /// As it is stored.
    stored: EncodedFrame,
    /// With its personal data open, where it has any.
    opened: Option<EncodedFrame>,
    /// Whether it tells of an erasure: what was opened before it must not be kept.
    pub is_erasure: bool,
    event_type: EventType,
    stream: StreamName,
}

impl Frame {
    /// Events of a tenant, in the order given.
    pub async fn from_events(
        tenant: &TenantStore,
        slug: &TenantSlug,
        events: Vec<RecordedEvent>,
    ) -> Result<Vec<Arc<Self>>, FrameError> {
        let opened = tenant.open_for_readers(events.clone()).await?;
        let frames = events.iter().zip(&opened).map(|(event, opened)| Self::of(event, opened, slug));
        Ok(frames.collect::<Result<_, _>>()?)
    }

    /// The event as it is stored and as it is with its personal data open.
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

    /// What a follower is sent, who may read personal data or not.
    pub fn encoded(&self, personal_data: bool) -> &EncodedFrame {
        self.opened.as_ref().filter(|_| personal_data).unwrap_or(&self.stored)
    }

    /// What it takes in memory, roughly.
    pub fn size(&self) -> usize {
        let opened = self.opened.as_ref().map_or(0, EncodedFrame::size);
        self.stored.size() + opened + size_of::<Self>()
    }

    /// Whether a follower with this filter gets it.
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

/// Why events cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A stored event is no JSON.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Keys are not to be had for the moment, or something stored does not read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EncodedFrame {
    fn of(event: &RecordedEvent, tenant: &TenantSlug) -> Result<Self, DecodeError> {
        let encoded = serde_json::to_string(&event.to_cloud_event(tenant)?);
        let encoded = encoded
            .map_err(|source| DecodeError { event_type: event.event_type.to_string(), source })?
            // Between the tokens of stored JSON, where alone they can stand, line breaks mean nothing; to server-sent events
            // they do.
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

    /// An event at a position.
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
