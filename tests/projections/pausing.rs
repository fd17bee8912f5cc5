//! A paused read model stands still, for one tenant or all, in every process, and goes on where it was.

use commands::Executor;
use projections::{CUSTOMERS, CustomerRow, ProjectionState, UserRow};
use store::{Store, TenantStore};

use crate::support::eventually;
use crate::support::postgres::{Database, open_tenant};
use crate::support::read_models::{
    caught_up, customers, folded, frequent_comparison, keep, no_notifications, register,
};

async fn state(store: &Store, tenant: &TenantStore) -> ProjectionState {
    let lags = projections::lag(store).await.expect("reads");
    lags.into_iter()
        .find(|lag| lag.tenant == tenant.id() && lag.projection == CUSTOMERS)
        .expect("is listed")
        .state
}

/// Waits until events are left lying: processes notice within a second.
async fn stands_still(executor: &Executor, tenant: &TenantStore) -> usize {
    eventually("the read model stands still", || async {
        let before = customers(tenant).await.len();
        register(executor, tenant, "Late").await;
        // Longer than the others need to keep up.
        let head = tenant.head().await.expect("a head");
        let reached = tenant
            .wait_for_checkpoint(CUSTOMERS, head.log_id, head.position, std::time::Duration::from_millis(300))
            .await;
        (!reached.expect("reads")).then_some(before)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tenant_or_all_are_held_up_and_go_on_where_they_were() {
    let database = Database::create().await;
    let (store, elsewhere) = (database.store().await, database.store().await);
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let (held, free) = (open_tenant(&store, "held").await, open_tenant(&store, "free").await);
    let _keepers = (
        keep::<CustomerRow>(&store, no_notifications(), frequent_comparison()),
        keep::<CustomerRow>(&elsewhere, no_notifications(), frequent_comparison()),
        keep::<UserRow>(&store, no_notifications(), frequent_comparison()),
    );
    for tenant in [&held, &free] {
        register(&executor, tenant, "Ada").await;
        caught_up::<CustomerRow>(tenant).await;
    }
    let set = async |paused: bool| {
        let transaction = held.begin_worker_transaction().await.expect("begins");
        let changed = transaction.set_paused(CUSTOMERS, paused).await.expect("writes");
        transaction.commit().await.expect("commits");
        changed
    };
    assert!(set(true).await && !set(true).await);
    let seen = stands_still(&executor, &held).await;
    assert!(seen >= 1);
    register(&executor, &free, "Bo").await;
    caught_up::<CustomerRow>(&free).await;
    caught_up::<UserRow>(&held).await;
    assert_eq!(
        (state(&store, &held).await, state(&store, &free).await),
        (ProjectionState::Paused, ProjectionState::Live)
    );
    assert!(!customers(&held).await.is_empty(), "what is there stays readable");

    assert!(set(false).await && !set(false).await);
    caught_up::<CustomerRow>(&held).await;

    assert!(store.set_paused_for_all(CUSTOMERS, true).await.expect("writes"));
    stands_still(&executor, &free).await;
    stands_still(&executor, &held).await;
    assert_eq!(state(&store, &free).await, ProjectionState::Paused);
    assert!(elsewhere.set_paused_for_all(CUSTOMERS, false).await.expect("writes"));
    for tenant in [&held, &free] {
        caught_up::<CustomerRow>(tenant).await;
        assert_eq!(customers(tenant).await, folded::<CustomerRow>(tenant).await);
    }
}
