//! The progress of an erasure, folded from the stream of its subject.

use std::pin::pin;

use commands::{Decider, Subject};
use futures::TryStreamExt;
use schemas::engine::recorded::timestamp;
use schemas::engine::{LogId, Reason, RecordedEvent, StreamName};
use schemas::privacy::subject::{ErasureStatus, SubjectEvent};
use serde::{Deserialize, Serialize};
use store::{StoreError, TenantStore};
use uuid::Uuid;

/// A requested erasure. Times are in RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureProgress {
    /// The subject of the erasure.
    pub subject: Uuid,
    /// Whether it is done.
    pub status: ErasureStatus,
    /// The reason that the request gave.
    pub reason: Option<Reason>,
    /// When it was requested.
    pub requested_at: String,
    /// What the log records of it once it is done.
    #[serde(flatten)]
    pub recorded: Option<RecordedErasure>,
}

/// A completed erasure, as the log records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedErasure {
    /// When it was recorded.
    pub erased_at: String,
    /// The log of the event that records it.
    pub log_id: LogId,
    /// The position of that event. The proof of the event is the certificate.
    pub position: u64,
    /// The destroyed key, if the subject had one.
    pub key: Option<Uuid>,
    /// The streams whose personal data can no longer be decrypted.
    pub streams: Vec<StreamName>,
}

impl ErasureProgress {
    /// The progress at a version of the subject's stream. `None` if the erasure was not requested.
    /// The stream is short, so all of it is read.
    ///
    /// # Errors
    /// [`StoreError`] if the stream cannot be read.
    pub async fn load(store: &TenantStore, subject: Uuid, version: u64) -> Result<Option<Self>, StoreError> {
        let stream = StreamName::new(Subject::CATEGORY, subject);
        let mut events = pin!(store.read_stream(&stream, 1));
        let mut progress = None;
        while let Some(event) = events.try_next().await? {
            if event.version > version {
                break;
            }
            progress = Self::after(progress, subject, &event)?;
        }
        Ok(progress)
    }

    /// The progress after one more event of the subject's stream.
    fn after(
        progress: Option<Self>,
        subject: Uuid,
        event: &RecordedEvent,
    ) -> Result<Option<Self>, StoreError> {
        let decoded = event.decode::<SubjectEvent>().map_err(|error| {
            let (stream, version) = (&event.stream, event.version);
            StoreError::Corrupt(format!("{stream} at version {version} does not read: {error}"))
        })?;
        Ok(match decoded {
            None => progress,
            Some(SubjectEvent::ErasureRequested { reason }) => Some(Self {
                subject,
                status: ErasureStatus::Requested,
                reason,
                requested_at: timestamp(event.recorded_at),
                recorded: None,
            }),
            Some(SubjectEvent::Erased { key, streams, .. }) => progress.map(|requested| Self {
                status: ErasureStatus::Erased,
                recorded: Some(RecordedErasure {
                    erased_at: timestamp(event.recorded_at),
                    log_id: event.log_id,
                    position: event.position,
                    key,
                    streams,
                }),
                ..requested
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use schemas::engine::{Actor, Event, EventType, Metadata};
    use serde_json::json;

    use super::*;

    const SUBJECT: Uuid = Uuid::from_u128(7);

    fn recorded(event: &SubjectEvent, position: u64) -> RecordedEvent {
        RecordedEvent {
            log_id: LogId(Uuid::from_u128(1)),
            position,
            stream: StreamName::new(Subject::CATEGORY, SUBJECT),
            version: position,
            event_id: Uuid::nil(),
            event_type: EventType::parse(event.type_name()).expect("a valid type"),
            recorded_at: DateTime::UNIX_EPOCH,
            payload: event.encode().expect("serialises").into(),
            metadata: Metadata::new(Actor::anonymous(), Uuid::nil()),
        }
    }

    fn after(progress: Option<ErasureProgress>, event: SubjectEvent, at: u64) -> Option<ErasureProgress> {
        ErasureProgress::after(progress, SUBJECT, &recorded(&event, at)).expect("folds")
    }

    #[test]
    fn an_erasure_is_requested_and_then_recorded() {
        let reason = Reason::parse("asked for").ok();
        let requested = SubjectEvent::ErasureRequested { reason };
        let streams = vec![StreamName::new("identity.user", SUBJECT)];
        let erased = SubjectEvent::Erased { key: None, streams, scrubbed_to: 1 };
        assert_eq!(after(None, erased.clone(), 1), None, "it was not requested");

        let progress = after(None, requested, 1);
        let mut shown = json!({
            "subject": SUBJECT, "status": "requested", "reason": "asked for",
            "requested_at": "1970-01-01T00:00:00.000000Z",
        });
        assert_eq!(serde_json::to_value(&progress).expect("serialises"), shown);
        let progress = after(progress, erased, 2);
        shown["status"] = "erased".into();
        shown["erased_at"] = "1970-01-01T00:00:00.000000Z".into();
        shown["log_id"] = json!(Uuid::from_u128(1));
        shown["position"] = 2.into();
        shown["key"] = json!(null);
        shown["streams"] = json!([format!("identity.user/{SUBJECT}")]);
        assert_eq!(serde_json::to_value(&progress).expect("serialises"), shown);
        let read: Option<ErasureProgress> = serde_json::from_value(shown).expect("reads");
        assert_eq!(read, progress);
    }
}
