//! The worker of erasures: it waits for the read models, and an interruption only delays it.

use std::sync::Arc;

use commands::{Customer, Executor};
use futures::FutureExt;
use schemas::engine::StreamName;
use store::Store;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::support::eventually;
use crate::support::key_stores::{KeyStoreKind, over_both_key_stores};
use crate::support::postgres::{Database, open_tenant};
use crate::support::read_models::{customers, frequent_comparison, no_notifications, register};
use crate::support::saga_engine::types;

over_both_key_stores!(an_erasure_waits_for_the_read_models_and_survives_any_interruption);

/// Carries out erasures until dropped.
fn eraser(database: &Database, store: &Store) -> AbortOnDropHandle<()> {
    let read_models = projections::checkpoints().iter().map(ToString::to_string).collect();
    let executor = Executor::new(store.clone(), 1024 * 1024);
    AbortOnDropHandle::new(tokio::spawn(privacy::run(
        executor,
        database.keyring(),
        read_models,
        Arc::new(|| std::future::ready(Ok(Vec::new())).boxed()),
        no_notifications(),
        CancellationToken::new(),
    )))
}

async fn an_erasure_waits_for_the_read_models_and_survives_any_interruption(keys: KeyStoreKind) {
    let database = Database::with_keys(keys).await;
    let store = database.store().await;
    let executor = Arc::new(Executor::new(store.clone(), 1024 * 1024));
    let tenant = open_tenant(&store, "acme").await;
    let id = register(&executor, &tenant, "Ada").await;
    let subject =
        executor.load::<Customer>(tenant.id(), id).await.expect("loads").expect("is there").0.user_id;
    let subject = subject.expect("a user");
    privacy::request_as_system(&executor, tenant.id(), subject, "tests").await.expect("asked for");

    // Interrupted again and again, at whatever point that is.
    for millis in [0, 50, 100, 200, 400, 600, 700] {
        let eraser = eraser(&database, &store);
        drop(
            tokio::time::timeout(std::time::Duration::from_millis(millis), std::future::pending::<()>())
                .await,
        );
        drop(eraser);
    }
    let _eraser = eraser(&database, &store);
    let stream = StreamName::new("privacy.subject", subject);
    eventually("the customer forgets", || async {
        let recorded = types(&tenant, &StreamName::new("crm.customer", id)).await;
        (recorded.last().map(String::as_str) == Some("crm.customer.erased.v1")).then_some(())
    })
    .await;
    assert_eq!(types(&tenant, &stream).await.len(), 1, "no read model has come there yet");
    let keeping = projections::run_all(
        store.clone(),
        no_notifications,
        frequent_comparison(),
        CancellationToken::new(),
    );
    let _keeping = AbortOnDropHandle::new(tokio::spawn(keeping));
    eventually("the erasure is recorded", || async {
        (types(&tenant, &stream).await.len() == 2).then_some(())
    })
    .await;
    let recorded = types(&tenant, &StreamName::new("crm.customer", id)).await;
    assert_eq!(recorded, ["crm.customer.registered.v1", "crm.customer.erased.v1"], "each once");
    assert!(customers(&tenant).await[&id].name.is_empty());
}
