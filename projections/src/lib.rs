//! Read models as folds over rows, and the engine that updates them.
//!
//! - One folder for each bounded context, one file for each read model: its row, its table, its fold.
//! - `read_models` is the registry of read models.
//! - `engine` applies events (batches, checkpoints, events that cannot be applied), and generates SQL from the columns
//!   of a table.
//! - `store::feed` delivers the events, whatever their source does.

pub mod crm;
pub mod engine;
pub mod identity;
mod read_models;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use schemas::engine::{LogId, TenantId};
use store::feed::{self, FeedSettings};
use store::{ReadTable, Store, TenantStore};
use tokio_util::sync::CancellationToken;

pub use crm::customer::CustomerRow;
pub use engine::change::{FieldChange, RowChange};
pub use engine::definition::{read_table, table_at};
pub use engine::error::ProjectionError;
pub use engine::historic_state::{HistoricState, HistoricStateError};
pub use engine::lag::{ProjectionLag, ProjectionState, lag};
pub use engine::projection::{OutOfSequence, Projection, StoredRow, apply, fold};
pub use engine::rebuild::{OnProgress, RebuildError, RebuildReport};
pub use engine::replay::{HistoricReadModel, LogPosition, ReplayTarget, log_position_at};
pub use engine::runner::ProjectionRunner;
pub use engine::table::{Difference, Differences};
pub use identity::user::UserRow;
pub use read_models::{CUSTOMERS, HistoricRows, READ_MODELS, ReadModel, Record, RowFold, USERS};
pub use store::feed::Batch;

/// The tables of all read models; the migration creates them.
pub fn tables() -> Vec<ReadTable> {
    READ_MODELS.iter().map(ReadModel::table).collect()
}

/// The checkpoints of all read models.
pub fn checkpoints() -> Vec<&'static str> {
    READ_MODELS.iter().map(ReadModel::checkpoint).collect()
}

/// The checkpoint for a name that an operator gives: `customers` or `customers.v2`.
pub fn find(name: &str) -> Option<&'static str> {
    ReadModel::find(name).map(ReadModel::checkpoint)
}

/// Maximum tenants that are rebuilt at once.
const CONCURRENT_REBUILDS_MAX: usize = 3;

/// Rebuilds the read model of this checkpoint for each tenant. A failure for one tenant does not affect the others.
/// `progress` receives the sums over all tenants.
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
        let Some(read_model) = ReadModel::find(checkpoint) else {
            return (tenant, Err(RebuildError::Unknown(checkpoint.to_owned())));
        };
        (tenant, (read_model.rebuild)(store, &handle, force, &note, cancel).await)
    };
    futures::stream::iter(tenants.iter().copied()).map(one).buffered(CONCURRENT_REBUILDS_MAX).collect().await
}

/// Computes a historical state of the read model of this checkpoint. `log` is the log of the positions.
///
/// # Errors
/// [`HistoricStateError`], also if the tenant has another log.
pub async fn replay(
    tenant: &TenantStore,
    checkpoint: &str,
    log: LogId,
    wanted: ReplayTarget,
    progress: OnProgress<'_>,
) -> Result<HistoricReadModel, HistoricStateError> {
    let read_model =
        ReadModel::find(checkpoint).ok_or_else(|| HistoricStateError::Unknown(checkpoint.to_owned()))?;
    (read_model.replay)(tenant, log, wanted, progress).await
}

/// Updates every read model until cancelled. Read models with work at the same time share a transaction.
/// `followed` is called once for each read model.
/// The batches that it returns only reduce latency: lost, repeated or disordered ones are corrected from the log.
pub async fn run_all<S>(
    store: Store,
    followed: impl Fn() -> S,
    settings: FeedSettings,
    cancel: CancellationToken,
) where
    S: Stream<Item = Batch> + Send + 'static,
{
    let shared = Arc::default();
    let one = |read_model: &ReadModel| {
        (read_model.run)(store.clone(), Arc::clone(&shared), followed().boxed(), settings, cancel.clone())
    };
    futures::future::join_all(READ_MODELS.iter().map(one)).await;
}

/// Updates one read model until cancelled.
pub async fn run<P: Projection>(
    store: Store,
    followed: impl Stream<Item = Batch> + Send,
    settings: FeedSettings,
    cancel: CancellationToken,
) {
    let runner = Arc::new(ProjectionRunner::<P>::new(store.clone()));
    feed::run(store, runner, followed, settings, cancel).await;
}
