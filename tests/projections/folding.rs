//! The tables equal a fold of the log, each tenant's apart, and lag is told.

use commands::Executor;
use projections::{Batch, CustomerRow, UserRow};
use store::feed::FeedSettings;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::support::postgres::{Database, open_tenant};
use crate::support::read_models::{
    caught_up, customers, folded, frequent_comparison, keep, no_notifications, random_history, register,
    users,
};

#[tokio::test]
async fn after_random_commands_the_tables_are_a_fold_of_the_log() {
    let store = Database::create().await.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenants = [open_tenant(&store, "acme").await, open_tenant(&store, "bolt").await];
    for (tenant, seed) in tenants.iter().zip(1..) {
        random_history(&executor, tenant, 150, seed).await;
    }
    // Small batches, so that rows are loaded and changed many times.
    let settings = FeedSettings { batch: 7, ..frequent_comparison() };
    let all = projections::run_all(store.clone(), no_notifications, settings, CancellationToken::new());
    let _all = AbortOnDropHandle::new(tokio::spawn(all));
    for round in 0..2 {
        for tenant in &tenants {
            caught_up::<CustomerRow>(tenant).await;
            caught_up::<UserRow>(tenant).await;
            let (customers, users) = (customers(tenant).await, users(tenant).await);
            assert!(!customers.is_empty() && !users.is_empty());
            assert_eq!(customers, folded::<CustomerRow>(tenant).await);
            assert_eq!(users, folded::<UserRow>(tenant).await);
            random_history(&executor, tenant, 40, 100 + round).await;
        }
    }
    assert!(store.dead_letters(None, None, 10).await.expect("reads").is_empty());
}

#[tokio::test]
async fn a_row_shows_what_was_registered() {
    let store = Database::create().await.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenant = open_tenant(&store, "acme").await;
    let id = register(&executor, &tenant, "Ada Ünïcode \\ 'quoted'").await;
    let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
    caught_up::<CustomerRow>(&tenant).await;

    let row = customers(&tenant).await.remove(&id).expect("the row is there");
    assert_eq!(row.name, "Ada Ünïcode \\ 'quoted'");
    assert_eq!((row.email.as_str(), row.email_key.as_str()), ("Ada@Example.com", "ada@example.com"));
    assert_eq!(row.company.as_deref(), Some("Engines & \"Söhne\""));
    let recorded = crate::support::read_models::log(&tenant).await;
    assert_eq!(
        (row.version, row.registered_at, row.updated_at),
        (1, recorded[0].recorded_at, recorded[0].recorded_at)
    );
}

#[tokio::test]
async fn the_checkpoint_passes_over_events_of_others() {
    let store = Database::create().await.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenant = open_tenant(&store, "acme").await;
    register(&executor, &tenant, "Ada").await;
    let _keeper = keep::<UserRow>(&store, no_notifications(), frequent_comparison());
    caught_up::<UserRow>(&tenant).await;
    assert!(users(&tenant).await.is_empty());
}

#[tokio::test]
async fn lag_is_told_for_every_read_model_and_tenant() {
    let store = Database::create().await.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenant = open_tenant(&store, "acme").await;
    for text in ["Ada", "Bo", "Cy"] {
        register(&executor, &tenant, text).await;
    }
    let of = |lags: Vec<projections::ProjectionLag>, name: &str| {
        let lag = lags.into_iter().find(|lag| lag.tenant == tenant.id() && lag.projection == name);
        lag.map(|lag| (lag.position, lag.head)).expect("is listed")
    };
    assert_eq!(of(projections::lag(&store).await.expect("reads"), projections::CUSTOMERS), (0, 3));
    let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
    caught_up::<CustomerRow>(&tenant).await;
    let lags = projections::lag(&store).await.expect("reads");
    assert_eq!(of(lags.clone(), projections::CUSTOMERS), (3, 3));
    assert_eq!(of(lags, projections::USERS), (0, 3));
}

#[tokio::test]
async fn a_source_that_ends_ends_nothing() {
    let store = Database::create().await.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenant = open_tenant(&store, "acme").await;
    let _keeper = keep::<CustomerRow>(&store, futures::stream::empty::<Batch>(), frequent_comparison());
    register(&executor, &tenant, "Ada").await;
    caught_up::<CustomerRow>(&tenant).await;
    assert_eq!(customers(&tenant).await.len(), 1);
}
