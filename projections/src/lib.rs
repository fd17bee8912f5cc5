//! Read models as folds over rows, and the engine that keeps them.
//!
//! Layout: one folder a bounded context, one file a read model (its row, its table, its fold); `engine` holds the keeper
//! (batches, checkpoints, events that cannot be applied) and the SQL that is generated from a table's columns. What
//! feeds the keeper, whatever the source of events does, is `store::feed`.

pub mod crm;
pub mod engine;
pub mod identity;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use schemas::engine::{LogId, TenantId};
use store::feed::{self, FeedSettings};
use store::{ReadTable, Store, TenantStore};
use tokio_util::sync::CancellationToken;

pub use crm::customer::{CustomerRow, Customers};
pub use engine::change::{FieldChange, RowChange};
pub use engine::error::ProjectionError;
pub use engine::keeper::Keeper;
pub use engine::lag::{ProjectionLag, ProjectionState, lag};
pub use engine::past::{Past, PastError};
pub use engine::projection::{Projection, checkpoint_name, fold};
pub use engine::rebuild::{OnProgress, RebuildError, Rebuilt};
pub use engine::replay::{Moment, Replayed, Wanted, moment};
pub use engine::table::{Difference, Differences};
pub use identity::user::{UserRow, Users};
pub use store::feed::Batch;

/// The checkpoint of the read model of customers.
pub const CUSTOMERS: &str = "customers.v1";
/// The checkpoint of the read model of users.
pub const USERS: &str = "users.v1";
/// The checkpoints of all read models.
pub const CHECKPOINTS: &[&str] = &[CUSTOMERS, USERS];

/// The tables of all read models, for the migration to create.
pub fn tables() -> Vec<ReadTable> {
    vec![Customers::TABLE, Users::TABLE]
}

/// The checkpoint of the read model that an operator means: `customers` or `customers.v1`.
pub fn find(name: &str) -> Option<&'static str> {
    let is_meant = |checkpoint: &&&str| {
        **checkpoint == name || checkpoint.rsplit_once(".v").is_some_and(|(plain, _)| plain == name)
    };
    CHECKPOINTS.iter().find(is_meant).copied()
}

/// Tenants rebuilt at once.
const REBUILT_AT_ONCE: usize = 3;

/// Rebuilds the read model of this checkpoint, tenant by tenant; what happens to one does not concern the others.
/// `progress` hears the sums over all tenants.
pub async fn rebuild(
    store: &Store,
    checkpoint: &str,
    tenants: &[TenantId],
    force: bool,
    progress: OnProgress<'_>,
    cancel: &CancellationToken,
) -> Vec<(TenantId, Result<Rebuilt, RebuildError>)> {
    let sums = Mutex::new(HashMap::<TenantId, (u64, u64)>::new());
    let one = async |tenant: TenantId| {
        let note = |position: u64, target: u64| {
            let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
            sums.insert(tenant, (position, target));
            let sum = sums.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            progress(sum.0, sum.1);
        };
        let handle = store.tenant(tenant);
        let done = if checkpoint == USERS {
            engine::rebuild::rebuild::<Users>(store, &handle, force, &note, cancel).await
        } else {
            engine::rebuild::rebuild::<Customers>(store, &handle, force, &note, cancel).await
        };
        (tenant, done)
    };
    futures::stream::iter(tenants.iter().copied()).map(one).buffered(REBUILT_AT_ONCE).collect().await
}

/// Works out a past state of the read model of this checkpoint. `log`: which log the positions are of; refused when the
/// tenant has another.
pub async fn replay(
    tenant: &TenantStore,
    checkpoint: &str,
    log: LogId,
    wanted: Wanted,
    progress: OnProgress<'_>,
) -> Result<Replayed, PastError> {
    if checkpoint == USERS {
        engine::replay::replay::<Users>(tenant, log, wanted, progress).await
    } else {
        engine::replay::replay::<Customers>(tenant, log, wanted, progress).await
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
    S: Stream<Item = Batch> + Send,
{
    tokio::join!(
        run::<Customers>(store.clone(), followed(), settings, cancel.clone()),
        run::<Users>(store, followed(), settings, cancel),
    );
}

/// Keeps one read model up to date until cancelled.
pub async fn run<P: Projection>(
    store: Store,
    followed: impl Stream<Item = Batch> + Send,
    settings: FeedSettings,
    cancel: CancellationToken,
) {
    let keeper = Arc::new(Keeper::<P>::new(store.clone()));
    feed::run(store, keeper, followed, settings, cancel).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_named_after_projection_and_version() {
        assert_eq!(CHECKPOINTS, [checkpoint_name::<Customers>(), checkpoint_name::<Users>()]);
    }

    #[test]
    fn a_read_model_is_found_with_and_without_its_version() {
        assert_eq!((find("customers"), find("users.v1")), (Some(CUSTOMERS), Some(USERS)));
        assert_eq!((find("customers.v2"), find("")), (None, None));
    }
}
