//! Where every key is destroyed, everything can still be replayed: each aggregate, each read model, each saga.

use commands::{Customer, Executor, User};
use futures::TryStreamExt;
use projections::{CustomerRow, UserRow};
use schemas::saga::instance_stream;
use store::{LogFilter, TenantStore};
use tokio_util::sync::CancellationToken;

use crate::support::key_stores::{KeyStoreKind, over_both_key_stores};
use crate::support::nats_server::NatsServer;
use crate::support::postgres::{Database, open_tenant};
use crate::support::read_models::{
    caught_up, customers, frequent_comparison, no_notifications, random_history, users,
};
use crate::support::saga_engine::{Engine, register, settled};

over_both_key_stores!(a_replay_without_any_key_succeeds_everywhere);

const ONBOARDING: &str = "customer_onboarding";

/// The subjects that anything in the log was sealed for.
async fn subjects(tenant: &TenantStore) -> Vec<uuid::Uuid> {
    let events: Vec<_> = tenant.read_log(0, LogFilter::default()).try_collect().await.expect("reads");
    let mut found = std::collections::BTreeSet::new();
    for event in events {
        let payload: serde_json::Value = serde_json::from_slice(&event.payload).expect("JSON");
        let mut waiting = vec![&payload];
        while let Some(value) = waiting.pop() {
            if let Some(subject) = value.pointer("/$sealed/subject").and_then(serde_json::Value::as_str) {
                found.insert(subject.parse().expect("an id"));
            }
            match value {
                serde_json::Value::Array(items) => waiting.extend(items),
                serde_json::Value::Object(fields) => waiting.extend(fields.values()),
                _ => {}
            }
        }
    }
    found.into_iter().collect()
}

async fn a_replay_without_any_key_succeeds_everywhere(keys: KeyStoreKind) {
    // Each seed is a history of its own; one is enough where the store of keys is not the usual one.
    for seed in if keys == KeyStoreKind::File { 1..4 } else { 1..2 } {
        let (database, server) = (Database::with_keys(keys).await, NatsServer::start().await);
        let engine = Engine::start(&database, &server, sagas::processes()).await;
        let tenant = open_tenant(&engine.store, "acme").await;
        for n in 0..10 {
            register(&engine.executor, tenant.id(), n, &[schemas::identity::role::Role::Member]).await;
        }
        random_history(&engine.executor, &tenant, 120, seed).await;
        settled(&database, &tenant, ONBOARDING).await;
        engine.stop().await;

        let all = subjects(&tenant).await;
        assert!(all.len() > 12, "{}", all.len());
        let keyring = database.keyring();
        for subject in &all {
            assert!(keyring.destroy(tenant.id(), *subject).await.expect("destroys").is_some());
        }
        // Stores that have seen nothing open.
        let store = database.store().await;
        let (executor, tenant) = (Executor::new(store.clone(), 1024 * 1024), store.tenant(tenant.id()));
        let beginnings = ["crm.customer/", "identity.user/"];
        for beginning in beginnings {
            for stream in tenant.streams(beginning, None, 1_000).await.expect("streams") {
                let id = stream.uuid().expect("an id");
                let is_blank = if beginning.starts_with("crm") {
                    let (customer, _) =
                        executor.load::<Customer>(tenant.id(), id).await.expect("loads").expect("is there");
                    customer.name.is_empty() && customer.contact.is_none()
                } else {
                    let (user, _) =
                        executor.load::<User>(tenant.id(), id).await.expect("loads").expect("is there");
                    user.name.is_empty() && user.email.is_empty() && !user.roles.is_empty()
                };
                assert!(is_blank, "{stream}");
            }
        }
        let cancel = CancellationToken::new();
        let keeping = tokio::spawn(projections::run_all(
            store.clone(),
            no_notifications,
            frequent_comparison(),
            cancel.clone(),
        ));
        caught_up::<CustomerRow>(&tenant).await;
        caught_up::<UserRow>(&tenant).await;
        assert!(
            customers(&tenant)
                .await
                .values()
                .all(|row| row.name.is_empty() && row.email_key.as_str().is_empty())
        );
        assert!(
            users(&tenant)
                .await
                .values()
                .all(|row| row.email.is_empty() && row.email_key.as_str().is_empty())
        );
        cancel.cancel();
        keeping.await.expect("the read models end well");

        // The saga from the log's beginning: what stands recorded counts, and nobody new becomes a customer.
        let owner = database.connect("postgres").await;
        owner.batch_execute("delete from checkpoints where consumer like 'saga.%'").await.expect("deletes");
        let before = tenant.head().await.expect("a head").position;
        let engine = Engine::start(&database, &server, sagas::processes()).await;
        settled(&database, &tenant, ONBOARDING).await;
        let stream = instance_stream(ONBOARDING, all[0]);
        drop(crate::support::saga_engine::types(&tenant, &stream).await);
        engine.stop().await;
        assert_eq!(tenant.head().await.expect("a head").position, before);
        assert!(store.dead_letters(None, None, 10).await.expect("reads").is_empty());
    }
}
