//! Read models as folds over rows, and the engine that keeps them.
//!
//! Layout: one folder a bounded context, one file a read model (its row, its table, its fold); `engine` holds the keeper
//! (batches, checkpoints, events that cannot be applied) and the SQL that is generated from a table's columns. What
//! feeds the keeper, whatever the source of events does, is `store::feed`.

pub mod crm;
pub mod engine;
pub mod identity;

use std::sync::Arc;

use futures::Stream;
use store::feed::{self, FeedSettings};
use store::{ReadTable, Store};
use tokio_util::sync::CancellationToken;

pub use crm::customer::{CustomerRow, Customers};
pub use engine::error::ProjectionError;
pub use engine::keeper::Keeper;
pub use engine::lag::{ProjectionLag, lag};
pub use engine::projection::{Projection, checkpoint_name, fold};
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
}
