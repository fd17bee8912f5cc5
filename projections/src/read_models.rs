//! The registry of read models, and a read model whose type is known at run time only.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use schemas::engine::{Event, LogId, Model, Moment, RecordedEvent, Registry, Row, StreamName};
use serde_json::{Map, Value};
use store::feed::{self, Batch, FeedSettings};
use store::{LogPage, ReadTable, SnapshotFold, Store, StoreError, TenantStore};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::engine::definition::read_table;
use crate::engine::error::ProjectionError;
use crate::engine::historic_state::{HistoricState, HistoricStateError};
use crate::engine::projection::{Projection, StoredRow, apply_decoded, category, decode, moment};
use crate::engine::rebuild::{self, OnProgress, RebuildError, RebuildReport};
use crate::engine::replay::{self, HistoricReadModel, ReplayTarget};
use crate::engine::runner::ProjectionRunner;
use crate::engine::shared_write::SharedWrites;
use crate::{CustomerRow, UserRow};

include!(concat!(env!("OUT_DIR"), "/fingerprints.rs"));

/// The checkpoint of the read model of customers.
pub const CUSTOMERS: &str = CustomerRow::MODEL.name;
/// The checkpoint of the read model of users.
pub const USERS: &str = UserRow::MODEL.name;

/// Every read model of the product.
pub static READ_MODELS: Registry<ReadModel> =
    Registry::of(&[ReadModel::of::<CustomerRow>(), ReadModel::of::<UserRow>()]);

type Run = fn(
    Store,
    Arc<SharedWrites>,
    BoxStream<'static, Batch>,
    FeedSettings,
    CancellationToken,
) -> BoxFuture<'static, ()>;
type Rebuild = for<'a> fn(
    &'a Store,
    &'a TenantStore,
    bool,
    OnProgress<'a>,
    &'a CancellationToken,
) -> BoxFuture<'a, Result<RebuildReport, RebuildError>>;
type Replay = for<'a> fn(
    &'a TenantStore,
    LogId,
    ReplayTarget,
    OnProgress<'a>,
) -> BoxFuture<'a, Result<HistoricReadModel, HistoricStateError>>;
type RowsAt = for<'a> fn(
    &'a TenantStore,
    LogId,
    &'a StreamName,
    [u64; 2],
) -> BoxFuture<'a, Result<HistoricRows, HistoricStateError>>;
type Page = for<'a> fn(
    &'a TenantStore,
    LogId,
    (u64, u64),
    usize,
) -> BoxFuture<'a, Result<LogPage, HistoricStateError>>;

type FoldFrom = fn(Value, Vec<Uuid>) -> Result<Box<dyn RowFold>, ProjectionError>;

/// The row of one aggregate at two positions, as JSON, and the number of events read.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoricRows {
    /// The row at each position; `None` if there was none.
    pub rows: [Option<Value>; 2],
    /// The number of events read.
    pub events: usize,
}

/// A read model.
#[derive(Clone, Copy)]
pub struct ReadModel {
    /// Its description.
    pub model: &'static Model,
    /// The category of the streams that the rows are folded from. Each row is folded from the stream with the row's id.
    pub category: &'static str,
    /// Updates it until cancelled.
    pub(crate) run: Run,
    /// Rebuilds it for a tenant.
    pub(crate) rebuild: Rebuild,
    /// Computes a historical state.
    pub(crate) replay: Replay,
    rows_at: RowsAt,
    page: Page,
    fold_from: FoldFrom,
    knows: fn(&str) -> bool,
}

/// A row as JSON: the columns by name.
pub type Record = Map<String, Value>;

/// A fold of the events of one aggregate into its row.
pub trait RowFold: Send {
    /// Applies the next event: its type, its payload with readable personal data, and where it was recorded.
    ///
    /// # Errors
    /// [`ProjectionError`] if the event cannot be applied.
    fn apply(&mut self, event_type: &str, payload: &[u8], moment: &Moment) -> Result<(), ProjectionError>;

    /// Applies the next recorded event.
    ///
    /// # Errors
    /// [`ProjectionError`] if the event cannot be applied.
    fn apply_recorded(&mut self, event: &RecordedEvent) -> Result<(), ProjectionError> {
        self.apply(event.event_type.as_str(), &event.payload, &moment(event)?)
    }

    /// The row after the events so far; `None` if there is none.
    ///
    /// # Errors
    /// [`ProjectionError::Row`] if the row cannot be serialised.
    fn record(&self) -> Result<Option<Record>, ProjectionError>;

    /// The subjects whose personal data the row may have.
    fn subjects(&self) -> &[Uuid];
}

struct StoredRowFold<P> {
    row: Option<StoredRow<P>>,
    subjects: Vec<Uuid>,
}

impl<P: Projection> RowFold for StoredRowFold<P> {
    fn apply(&mut self, event_type: &str, payload: &[u8], moment: &Moment) -> Result<(), ProjectionError> {
        let event = decode::<P>(event_type, payload)?;
        for subject in event.open_subjects(moment.id) {
            if !self.subjects.contains(&subject) {
                self.subjects.push(subject);
            }
        }
        self.row = apply_decoded(self.row.take(), event, event_type, moment)?;
        Ok(())
    }

    fn record(&self) -> Result<Option<Record>, ProjectionError> {
        match self.row.as_ref().map(to_json).transpose()? {
            Some(Value::Object(record)) => Ok(Some(record)),
            _ => Ok(None),
        }
    }

    fn subjects(&self) -> &[Uuid] {
        &self.subjects
    }
}

impl ReadModel {
    /// The read model of the rows `P`.
    pub const fn of<P: Projection>() -> Self {
        Self {
            model: P::MODEL,
            category: category::<P>(),
            run: |store, shared, followed, settings, cancel| {
                let runner = Arc::new(ProjectionRunner::<P>::new(store.clone()).sharing(shared));
                Box::pin(feed::run(store, runner, followed, settings, cancel))
            },
            rebuild: |store, tenant, force, progress, cancel| {
                Box::pin(rebuild::rebuild::<P>(store, tenant, force, progress, cancel))
            },
            replay: |tenant, log, wanted, progress| {
                Box::pin(replay::replay::<P>(tenant, log, wanted, progress))
            },
            rows_at: |tenant, log, stream, positions| Box::pin(rows_at::<P>(tenant, log, stream, positions)),
            page: |tenant, log, (after, up_to), limit| {
                Box::pin(async move { HistoricState::<P>::new(tenant, log).page(after, up_to, limit).await })
            },
            fold_from: |row, subjects| {
                let row: Option<StoredRow<P>> = serde_json::from_value(row).map_err(ProjectionError::Row)?;
                Ok(Box::new(StoredRowFold { row, subjects }))
            },
            knows: <P::Event as Event>::knows,
        }
    }

    /// The read model with this checkpoint, with or without version: `customers.v2` or `customers`.
    pub fn find(name: &str) -> Option<&'static Self> {
        READ_MODELS.iter().find(|read_model| {
            let model = read_model.model;
            model.name == name || model.plain_name() == name
        })
    }

    /// The name of its checkpoint.
    pub fn checkpoint(&self) -> &'static str {
        self.model.name
    }

    /// Whether this version of the program knows an event type of its streams.
    pub fn knows(&self, event_type: &str) -> bool {
        (self.knows)(event_type)
    }

    /// Its table.
    pub fn table(&self) -> ReadTable {
        read_table(self.model)
    }

    /// The row of a stream at two positions (ascending).
    ///
    /// # Errors
    /// [`HistoricStateError`] if the store fails, the log was replaced, or an event cannot be applied.
    pub async fn rows_at(
        &self,
        tenant: &TenantStore,
        log: LogId,
        stream: &StreamName,
        positions: [u64; 2],
    ) -> Result<HistoricRows, HistoricStateError> {
        (self.rows_at)(tenant, log, stream, positions).await
    }

    /// A page of the events of its streams, after one position and up to another.
    ///
    /// # Errors
    /// [`HistoricStateError`] if the store fails or the log was replaced.
    pub async fn page(
        &self,
        tenant: &TenantStore,
        log: LogId,
        between: (u64, u64),
        limit: usize,
    ) -> Result<LogPage, HistoricStateError> {
        (self.page)(tenant, log, between, limit).await
    }

    /// A fold of one aggregate's events, after those that made `row`; null for none. `subjects` are those whose personal
    /// data the row may have.
    ///
    /// # Errors
    /// [`ProjectionError::Row`] if the row does not parse.
    pub fn fold_from(&self, row: Value, subjects: Vec<Uuid>) -> Result<Box<dyn RowFold>, ProjectionError> {
        (self.fold_from)(row, subjects)
    }

    /// The fold of its rows, for snapshots.
    pub fn snapshot_fold(&self) -> SnapshotFold {
        let context = self.category.split_once('.').map_or(self.category, |(context, _)| context);
        SnapshotFold { name: self.model.name, fingerprint: of_context(context) }
    }
}

async fn rows_at<P: Projection>(
    tenant: &TenantStore,
    log: LogId,
    stream: &StreamName,
    positions: [u64; 2],
) -> Result<HistoricRows, HistoricStateError> {
    let ([first, second], events) = HistoricState::<P>::new(tenant, log).rows_at(stream, positions).await?;
    let value = |entry: Option<StoredRow<P>>| entry.map(|entry| to_json(&entry)).transpose();
    let rows = [value(first).map_err(StoreError::from)?, value(second).map_err(StoreError::from)?];
    Ok(HistoricRows { rows, events })
}

fn to_json<P: Projection>(entry: &StoredRow<P>) -> Result<Value, ProjectionError> {
    serde_json::to_value(entry).map_err(ProjectionError::Row)
}

#[cfg(test)]
mod tests {
    use schemas::identity::scope::Scope;

    use super::*;

    #[test]
    fn a_read_model_is_found_with_and_without_its_version() {
        for name in ["customers", CUSTOMERS] {
            assert_eq!(ReadModel::find(name).map(ReadModel::checkpoint), Some(CUSTOMERS));
        }
        for name in ["Customers", "customers.v1.v1", "v1", "", "customers.v99"] {
            assert!(ReadModel::find(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_read_model_is_read_with_a_scope_of_its_own() {
        assert_eq!(CustomerRow::MODEL.visible_to, Scope::CrmRead);
        assert_eq!(UserRow::MODEL.visible_to, Scope::UsersRead);
    }

    #[test]
    fn a_fold_goes_on_from_its_row() {
        for read_model in READ_MODELS.iter() {
            let mut fold = read_model.fold_from(Value::Null, Vec::new()).expect("starts");
            assert_eq!(fold.record().expect("reads"), None);
            let wrong = Moment { id: Uuid::nil(), version: 1, time: chrono::DateTime::UNIX_EPOCH };
            assert!(fold.apply("no.such.event.v1", b"{}", &wrong).is_err());
        }
    }
}
