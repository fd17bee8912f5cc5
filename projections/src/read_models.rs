//! The registry of read models, and a read model whose type is known at run time only.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use schemas::engine::{Event, LogId, Model, RecordedEvent, Registry, Row, StreamName};
use serde_json::{Map, Value};
use store::feed::{self, Batch, FeedSettings};
use store::{LogPage, ReadTable, Store, StoreError, TenantStore};
use tokio_util::sync::CancellationToken;

use crate::engine::definition::read_table;
use crate::engine::error::ProjectionError;
use crate::engine::historic_state::{HistoricState, HistoricStateError};
use crate::engine::projection::{Projection, StoredRow, apply, category};
use crate::engine::rebuild::{self, OnProgress, RebuildError, RebuildReport};
use crate::engine::replay::{self, HistoricReadModel, ReplayTarget};
use crate::engine::runner::ProjectionRunner;
use crate::engine::shared_write::SharedWrites;
use crate::{CustomerRow, UserRow};

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
    new_fold: fn() -> Box<dyn RowFold>,
    knows: fn(&str) -> bool,
}

/// A row as JSON: the columns by name.
pub type Record = Map<String, Value>;

/// A fold of the events of one aggregate into its row.
pub trait RowFold: Send {
    /// Applies the next event.
    ///
    /// # Errors
    /// [`ProjectionError`] if the event cannot be applied.
    fn apply(&mut self, event: &RecordedEvent) -> Result<(), ProjectionError>;

    /// The row after the events so far; `None` if there is none.
    ///
    /// # Errors
    /// [`ProjectionError::Row`] if the row cannot be serialised.
    fn record(&self) -> Result<Option<Record>, ProjectionError>;
}

struct StoredRowFold<P>(Option<StoredRow<P>>);

impl<P: Projection> RowFold for StoredRowFold<P> {
    fn apply(&mut self, event: &RecordedEvent) -> Result<(), ProjectionError> {
        self.0 = apply(self.0.take(), event)?;
        Ok(())
    }

    fn record(&self) -> Result<Option<Record>, ProjectionError> {
        match self.0.as_ref().map(to_json).transpose()? {
            Some(Value::Object(record)) => Ok(Some(record)),
            _ => Ok(None),
        }
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
            new_fold: || Box::new(StoredRowFold::<P>(None)),
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

    /// A fold of one aggregate's events, before the first one.
    pub fn new_fold(&self) -> Box<dyn RowFold> {
        (self.new_fold)()
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
