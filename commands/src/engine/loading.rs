//! Folds a stream into an aggregate, from its newest snapshot on.

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use futures::{Stream, TryStreamExt, pin_mut};
use schemas::engine::{Event, LogId, RecordedEvent, StreamName};
use store::{Receipt, SNAPSHOT_INTERVAL, Snapshot, StoreError, StreamEnd, TenantStore};
use uuid::Uuid;

use super::decider::Decider;
use super::fingerprints::snapshot_fold;
use super::outcome::LoadError;

/// An aggregate with its version; 0 before the first event.
#[derive(Debug, Clone, Default)]
pub(crate) struct LoadedAggregate<A> {
    pub(crate) state: A,
    pub(crate) version: u64,
    /// The log of the state, if it has any event.
    pub(crate) log_id: Option<LogId>,
    /// The position and the time of the last event.
    last: (u64, DateTime<Utc>),
    /// The subjects whose personal data the state may have.
    subjects: Vec<Uuid>,
    /// The version of the last snapshot that was read or kept.
    snapshot_version: u64,
}

impl<A: Decider> LoadedAggregate<A> {
    /// The aggregate at a version, or its last state before it.
    pub(crate) async fn at(
        tenant: &TenantStore,
        stream: &StreamName,
        version: u64,
    ) -> Result<Self, LoadError> {
        Box::pin(Self::load(tenant, stream, StreamEnd::Version(version))).await
    }

    /// Folds the events after the current version.
    ///
    /// The future is boxed, because most commands do not need it and it is large.
    pub(crate) fn catch_up<'a>(
        &'a mut self,
        tenant: &'a TenantStore,
        stream: &'a StreamName,
    ) -> BoxFuture<'a, Result<(), LoadError>> {
        Box::pin(self.catch_up_now(tenant, stream))
    }

    async fn catch_up_now(&mut self, tenant: &TenantStore, stream: &StreamName) -> Result<(), LoadError> {
        if self.version > 0 {
            let events = tenant.read_stream_of(self.log_id, stream, self.version + 1);
            match self.fold(events, stream, StreamEnd::Head).await {
                // The cached state is of a replaced log.
                Err(LoadError::Store(StoreError::LogReplaced { .. })) => {}
                folded => return folded.map(|()| self.keep_snapshot(tenant, stream)),
            }
        }
        *self = Self::load(tenant, stream, StreamEnd::Head).await?;
        Ok(())
    }

    async fn load(tenant: &TenantStore, stream: &StreamName, end: StreamEnd) -> Result<Self, LoadError> {
        let mut found = tenant.load_stream(&snapshot_fold::<A>(), None, stream, u64::MAX, end).await?;
        let mut loaded = match found.snapshot.take() {
            Some(snapshot) => Self::from_snapshot(snapshot)?,
            None => Self::default(),
        };
        loaded.fold(found.events(tenant, stream), stream, end).await?;
        loaded.keep_snapshot(tenant, stream);
        Ok(loaded)
    }

    fn from_snapshot(snapshot: Snapshot) -> Result<Self, LoadError> {
        let Snapshot { version, position, recorded_at, log_id, state, subjects } = snapshot;
        let state = serde_json::from_value(state).map_err(LoadError::Snapshot)?;
        let last = (position, recorded_at);
        Ok(Self { state, version, log_id: Some(log_id), last, subjects, snapshot_version: version })
    }

    async fn fold(
        &mut self,
        events: impl Stream<Item = Result<RecordedEvent, StoreError>>,
        stream: &StreamName,
        end: StreamEnd,
    ) -> Result<(), LoadError> {
        pin_mut!(events);
        while let Some(recorded) = events.try_next().await? {
            if matches!(end, StreamEnd::Version(version) if recorded.version > version) {
                break;
            }
            self.apply(decode(&recorded)?, stream);
            self.version = recorded.version;
            self.log_id = Some(recorded.log_id);
            self.last = (recorded.position, recorded.recorded_at);
        }
        Ok(())
    }

    /// Applies an event to the state. The version follows when it is recorded.
    pub(crate) fn apply(&mut self, event: A::Event, stream: &StreamName) {
        for subject in stream.uuid().map_or_else(Vec::new, |own| event.open_subjects(own)) {
            if !self.subjects.contains(&subject) {
                self.subjects.push(subject);
            }
        }
        self.state.apply(event);
    }

    /// The applied events were recorded.
    pub(crate) fn recorded(&mut self, receipt: &Receipt) {
        self.version = receipt.version;
        self.log_id = Some(receipt.log_id);
        if let Some(recorded_at) = receipt.recorded_at {
            self.last = (receipt.position, recorded_at);
        }
    }

    /// Keeps a snapshot in the background, if enough events were applied since the last one.
    pub(crate) fn keep_snapshot(&mut self, tenant: &TenantStore, stream: &StreamName) {
        let Some(log_id) = self.log_id else { return };
        if self.version < self.snapshot_version + SNAPSHOT_INTERVAL {
            return;
        }
        let Ok(state) = serde_json::to_value(&self.state) else { return };
        self.snapshot_version = self.version;
        let (position, recorded_at) = self.last;
        let subjects = self.subjects.clone();
        let snapshot = Snapshot { version: self.version, position, recorded_at, log_id, state, subjects };
        tenant.keep_snapshots(snapshot_fold::<A>(), stream, vec![snapshot]);
    }

    /// Bytes of the state in its serialised form, about what it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        let mut counter = ByteCounter(0);
        serde_json::to_writer(&mut counter, &self.state).map_or(0, |()| counter.0)
    }
}

/// Counts what is written.
struct ByteCounter(usize);

impl std::io::Write for ByteCounter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Decodes the event. An unknown type is an error, because skipping the event would give a wrong state.
pub(crate) fn decode<E: Event>(recorded: &RecordedEvent) -> Result<E, LoadError> {
    recorded.decode::<E>()?.ok_or_else(|| LoadError::UnknownType(recorded.event_type.to_string()))
}
