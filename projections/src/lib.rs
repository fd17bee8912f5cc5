//! Read models as folds over rows, and the engine that keeps them.
//!
//! Layout: one folder a bounded context, one file a read model (its row, its table, its fold); `read_models` is the registry
//! of them all; `engine` holds the keeper
//! (batches, checkpoints, events that cannot be applied) and the SQL that is generated from a table's columns. What
//! feeds the keeper, whatever the source of events does, is `store::feed`.

pub mod crm;
pub mod engine;
pub mod identity;
mod read_models;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use schemas::engine::{LogId, TenantId};
use store::feed::{self, FeedSettings};
use store::{ReadTable, Store, TenantStore};
use tokio_util::sync::CancellationToken;

pub use crm::customer::{CustomerRow, Customers};
pub use engine::change::{FieldChange, RowChange};
pub use engine::error::ProjectionError;
pub use engine::historic_state::{HistoricState, HistoricStateError};
pub use engine::lag::{ProjectionLag, ProjectionState, lag};
pub use engine::projection::{Projection, checkpoint_name, fold};
pub use engine::rebuild::{OnProgress, RebuildError, RebuildReport};
pub use engine::replay::{HistoricReadModel, LogPosition, ReplayTarget, log_position_at};
pub use engine::runner::ProjectionRunner;
pub use engine::table::{Difference, Differences};
pub use identity::user::{UserRow, Users};
pub use read_models::{CHECKPOINTS, CUSTOMERS, ReadModel, ReadModelVisitor, USERS};
pub use store::feed::Batch;

/// The tables of all read models, for the migration to create.
pub fn tables() -> Vec<ReadTable> {
    ReadModel::ALL.iter().map(|model| model.table()).collect()
}

/// The checkpoint of the read model that an operator means: `customers` or `customers.v1`.
pub fn find(name: &str) -> Option<&'static str> {
    ReadModel::find(name).map(ReadModel::checkpoint)
}

/// Tenants rebuilt at once.
const CONCURRENT_REBUILDS_MAX: usize = 3;

/// Rebuilds the read model of this checkpoint, tenant by tenant; what happens to one does not concern the others.
/// `progress` is told the sums over all tenants.
pub async fn rebuild(
    store: &Store,
    checkpoint: &str,
    tenants: &[TenantId],
    force: bool,
    progress: OnProgress<'_>,
    cancel: &CancellationToken,
) -> Vec<(TenantId, Result<RebuildReport, RebuildError>)> {
    let sums = Mutex::new(HashMap::<TenantId, (u64, u64)>::new());
    let one = async |tenant: TenantId| {
        let note = |position: u64, target: u64| {
            let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
            sums.insert(tenant, (position, target));
            let sum = sums.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            progress(sum.0, sum.1);
        };
        let handle = store.tenant(tenant);
        let Some(model) = ReadModel::find(checkpoint) else {
            return (tenant, Err(RebuildError::Unknown(checkpoint.to_owned())));
        };
        let work = Rebuild { store, tenant: &handle, force, progress: &note, cancel };
        (tenant, model.with(work).await)
    };
    futures::stream::iter(tenants.iter().copied()).map(one).buffered(CONCURRENT_REBUILDS_MAX).collect().await
}

struct Rebuild<'a> {
    store: &'a Store,
    tenant: &'a TenantStore,
    force: bool,
    progress: OnProgress<'a>,
    cancel: &'a CancellationToken,
}

impl<'a> ReadModelVisitor for Rebuild<'a> {
    type Output = BoxFuture<'a, Result<RebuildReport, RebuildError>>;

    fn of<P: Projection>(self) -> Self::Output {
        let Self { store, tenant, force, progress, cancel } = self;
        Box::pin(engine::rebuild::rebuild::<P>(store, tenant, force, progress, cancel))
    }
}

/// Works out a past state of the read model of this checkpoint. `log`: which log the positions are of; refused when the
/// tenant has another.
pub async fn replay(
    tenant: &TenantStore,
    checkpoint: &str,
    log: LogId,
    wanted: ReplayTarget,
    progress: OnProgress<'_>,
) -> Result<HistoricReadModel, HistoricStateError> {
    let model =
        ReadModel::find(checkpoint).ok_or_else(|| HistoricStateError::Unknown(checkpoint.to_owned()))?;
    model.with(Replay { tenant, log, wanted, progress }).await
}

struct Replay<'a> {
    tenant: &'a TenantStore,
    log: LogId,
    wanted: ReplayTarget,
    progress: OnProgress<'a>,
}

impl<'a> ReadModelVisitor for Replay<'a> {
    type Output = BoxFuture<'a, Result<HistoricReadModel, HistoricStateError>>;

    fn of<P: Projection>(self) -> Self::Output {
        let Self { tenant, log, wanted, progress } = self;
        Box::pin(engine::replay::replay::<P>(tenant, log, wanted, progress))
    }
}

/// Keeps every read model up to date until cancelled. `followed` is called once for each read model; what it gives makes
/// them quick, and what that loses, repeats or disorders is put right from the log.
pub async fn run_all<S>(
    store: Store,
    followed: impl Fn() -> S,
    settings: FeedSettings,
    cancel: CancellationToken,
) where
    S: Stream<Item = Batch> + Send + 'static,
{
    let one = |model: &ReadModel| {
        let (store, cancel) = (store.clone(), cancel.clone());
        model.with(Run { store, followed: followed(), settings, cancel })
    };
    futures::future::join_all(ReadModel::ALL.iter().map(one)).await;
}

struct Run<S> {
    store: Store,
    followed: S,
    settings: FeedSettings,
    cancel: CancellationToken,
}

impl<S: Stream<Item = Batch> + Send + 'static> ReadModelVisitor for Run<S> {
    type Output = BoxFuture<'static, ()>;

    fn of<P: Projection>(self) -> Self::Output {
        let Self { store, followed, settings, cancel } = self;
        Box::pin(run::<P>(store, followed, settings, cancel))
    }
}

/// Keeps one read model up to date until cancelled.
pub async fn run<P: Projection>(
    store: Store,
    followed: impl Stream<Item = Batch> + Send,
    settings: FeedSettings,
    cancel: CancellationToken,
) {
    let runner = Arc::new(ProjectionRunner::<P>::new(store.clone()));
    feed::run(store, runner, followed, settings, cancel).await;
}
