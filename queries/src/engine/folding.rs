//! Folds an aggregate's events into its row, from the newest snapshot on.

use std::pin::Pin;

use futures::{Stream, TryStreamExt};
use projections::{ReadModel, Record, RowFold};
use schemas::engine::{RecordedEvent, StreamName};
use serde_json::Value;
use store::{SNAPSHOT_INTERVAL, SNAPSHOTS_PER_LOAD_MAX, Snapshot, StoreError, StreamEnd, TenantStore};
use uuid::Uuid;

use super::as_of::AsOf;
use super::error::QueryError;

type Events = Pin<Box<dyn Stream<Item = Result<RecordedEvent, StoreError>> + Send>>;

/// A fold on its way.
pub(super) struct Folding<'a> {
    tenant: &'a TenantStore,
    read_model: &'a ReadModel,
    stream: StreamName,
    events: Events,
    end: Option<AsOf>,
    pub(super) fold: Box<dyn RowFold>,
    /// The version of the last event.
    pub(super) version: u64,
    snapshot_version: u64,
    snapshots: Vec<Snapshot>,
}

impl<'a> Folding<'a> {
    /// A fold of the events up to `end`, or of all. It starts from a snapshot of at most `snapshot_version_max`.
    pub(super) async fn begin(
        tenant: &'a TenantStore,
        read_model: &'a ReadModel,
        id: Uuid,
        snapshot_version_max: u64,
        end: Option<AsOf>,
    ) -> Result<Self, QueryError> {
        let stream = StreamName::new(read_model.category, id);
        let (log, bound) = (end.and_then(AsOf::log), end.map_or(StreamEnd::Head, AsOf::end));
        let fold = read_model.snapshot_fold();
        let mut found = tenant.load_stream(&fold, log, &stream, snapshot_version_max, bound).await?;
        let (version, row, subjects) = match found.snapshot.take() {
            Some(snapshot) => (snapshot.version, snapshot.state, snapshot.subjects),
            None => (0, Value::Null, Vec::new()),
        };
        Ok(Self {
            tenant,
            read_model,
            end,
            fold: read_model.fold_from(row, subjects).map_err(QueryError::Fold)?,
            version,
            snapshot_version: version,
            snapshots: Vec::new(),
            events: Box::pin(found.events(tenant, &stream)),
            stream,
        })
    }

    /// Applies the next event, and returns it.
    pub(super) async fn next(&mut self) -> Result<Option<RecordedEvent>, QueryError> {
        let Some(event) = self.events.try_next().await? else { return Ok(None) };
        if self.end.is_some_and(|end| !end.includes(&event)) {
            return Ok(None);
        }
        self.fold.apply_recorded(&event).map_err(QueryError::Fold)?;
        self.version = event.version;
        if self.version >= self.snapshot_version + SNAPSHOT_INTERVAL
            && self.snapshots.len() < SNAPSHOTS_PER_LOAD_MAX
        {
            let row = self.fold.record().map_err(QueryError::Fold)?;
            self.snapshot_version = self.version;
            self.snapshots.push(Snapshot {
                version: event.version,
                position: event.position,
                recorded_at: event.recorded_at,
                log_id: event.log_id,
                state: row.map_or(Value::Null, Value::Object),
                subjects: self.fold.subjects().to_vec(),
            });
        }
        Ok(Some(event))
    }

    /// Applies all events up to the end, and returns the row.
    pub(super) async fn finish(mut self) -> Result<(Option<Record>, Box<dyn RowFold>, u64), QueryError> {
        while self.next().await?.is_some() {}
        self.keep_snapshots();
        Ok((self.fold.record().map_err(QueryError::Fold)?, self.fold, self.version))
    }

    /// Keeps the snapshots of a long fold in the background.
    pub(super) fn keep_snapshots(&mut self) {
        let snapshots = std::mem::take(&mut self.snapshots);
        self.tenant.keep_snapshots(self.read_model.snapshot_fold(), &self.stream, snapshots);
    }
}
