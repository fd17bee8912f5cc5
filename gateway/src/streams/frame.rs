//! An event in the forms in which streams send it, made once for all followers.

use std::sync::Arc;

use axum::extract::ws::Utf8Bytes;
use bytes::Bytes;
use schemas::engine::{DecodeError, EventType, RecordedEvent, StreamName, TenantSlug};
use store::{LogFilter, StreamFilter};

/// One event, ready to be sent.
#[derive(Debug)]
pub struct Frame {
    /// Its position.
    pub position: u64,
    /// `id:` and `data:` of a server-sent event.
    pub sse: Bytes,
    /// `{"type":"event","event":{...}}`
    pub message: Utf8Bytes,
    event_type: EventType,
    stream: StreamName,
}

impl Frame {
    /// The event of the given tenant.
    pub fn of(event: &RecordedEvent, tenant: &TenantSlug) -> Result<Arc<Self>, DecodeError> {
        let encoded = serde_json::to_string(&event.to_cloud_event(tenant)?);
        let encoded = encoded
            .map_err(|source| DecodeError { event_type: event.event_type.to_string(), source })?
            // Between the tokens of stored JSON, where alone they can stand, line breaks mean nothing; to server-sent events
            // they do.
            .replace(['\n', '\r'], " ");
        Ok(Arc::new(Self {
            position: event.position,
            sse: format!("id: {}\ndata: {encoded}\n\n", event.position).into(),
            message: format!(r#"{{"type":"event","event":{encoded}}}"#).into(),
            event_type: event.event_type.clone(),
            stream: event.stream.clone(),
        }))
    }

    /// What it takes in memory, roughly.
    pub fn size(&self) -> usize {
        self.sse.len() + self.message.as_str().len() + size_of::<Self>()
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

#[cfg(test)]
pub mod testing {
    use schemas::engine::{Actor, LogId, Metadata, clock, ids};

    use super::*;

    /// An event at a position.
    pub fn frame(position: u64, event_type: &str, payload: &str) -> Arc<Frame> {
        let event = RecordedEvent {
            log_id: LogId(ids::random_id()),
            position,
            stream: StreamName::parse("crm.customer/1").expect("a stream"),
            version: position,
            event_id: ids::new_id(),
            event_type: EventType::parse(event_type).expect("a type"),
            recorded_at: clock::now(),
            payload: payload.to_owned().into(),
            metadata: Metadata::new(Actor::system("test"), ids::new_id()),
        };
        Frame::of(&event, &TenantSlug::parse("acme").expect("a slug")).expect("JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::testing::frame;
    use super::*;

    #[test]
    fn an_event_is_one_line_of_data_and_one_message() {
        let frame = frame(7, "crm.customer.registered.v1", "{\n \"name\": \"Ada\"\r\n}");
        let sse = std::str::from_utf8(&frame.sse).expect("text");
        let lines: Vec<&str> = sse.split('\n').collect();
        assert_eq!((lines[0], &lines[2..]), ("id: 7", &["", ""][..]));
        let data: serde_json::Value =
            serde_json::from_str(lines[1].strip_prefix("data: ").expect("data")).expect("JSON");
        assert_eq!((&data["position"], &data["data"]["name"]), (&"7".into(), &"Ada".into()));
        let message: serde_json::Value = serde_json::from_str(frame.message.as_str()).expect("JSON");
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
