//! Onboarding: exactly one customer for each member, whatever is repeated and whatever dies.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt;
use schemas::crm::customer::CustomerEvent;
use schemas::engine::{RecordedEvent, StreamName};
use schemas::identity::role::Role;
use schemas::saga::instance_stream;
use store::{ExpectedVersion, LogFilter, StreamAppend, TenantStore};
use uuid::Uuid;

use crate::support::nats_server::NatsServer;
use crate::support::postgres::{Database, event, metadata, open_tenant};
use crate::support::relay::{read_log, relayed, wait_until};
use crate::support::saga_engine::{Engine, register, settled, types};

const ONBOARDING: &str = "customer_onboarding";
const COMPLETE: [&str; 2] =
    ["saga.customer_onboarding.reacted.v1", "saga.customer_onboarding.step_completed.v1"];

/// How many customers each user has.
async fn customers(tenant: &TenantStore) -> BTreeMap<Uuid, usize> {
    let events: Vec<RecordedEvent> =
        tenant.read_log(0, LogFilter::default()).try_collect().await.expect("reads");
    let events = tenant.open(events).await.expect("opens");
    let mut customers = BTreeMap::new();
    for event in events {
        if let Some(CustomerEvent::Registered { user_id, .. }) = event.decode().expect("decodes") {
            *customers.entry(user_id.expect("onboarding names the user")).or_default() += 1;
        }
    }
    customers
}

async fn assert_one_customer_each(tenant: &TenantStore, users: &[Uuid]) {
    let expected: BTreeMap<Uuid, usize> = users.iter().map(|user| (*user, 1)).collect();
    assert_eq!(customers(tenant).await, expected);
    for user in users {
        assert_eq!(types(tenant, &instance_stream(ONBOARDING, *user)).await, COMPLETE);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_member_becomes_one_customer_and_administrators_none() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let engine = Engine::start(&database, &server, sagas::processes()).await;
    for slug in ["acme", "globex"] {
        let tenant = open_tenant(&engine.store, slug).await;
        let registering = (0..60).map(|n| register(&engine.executor, tenant.id(), n, &[Role::Member]));
        let users = futures::future::join_all(registering).await;
        register(&engine.executor, tenant.id(), 1_000, &[Role::TenantAdmin]).await;
        settled(&database, &tenant, ONBOARDING).await;
        assert_one_customer_each(&tenant, &users).await;
    }
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_a_newer_version_stops_the_saga_for_its_tenant() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let engine = Engine::start(&database, &server, sagas::processes()).await;
    let tenant = open_tenant(&engine.store, "acme").await;
    let early = register(&engine.executor, tenant.id(), 1, &[Role::Member]).await;
    settled(&database, &tenant, ONBOARDING).await;
    let known = tenant.head().await.expect("a head").position;
    // A newer saga may react to it, so this one does not pass it.
    let stream = StreamName::new("identity.user", early);
    let newer = vec![event("identity.user.registered.v2", "{}")];
    let append = StreamAppend::new(stream, ExpectedVersion::Any, newer, metadata());
    tenant.append(append).await.expect("appends");
    register(&engine.executor, tenant.id(), 2, &[Role::Member]).await;

    let other = open_tenant(&engine.store, "globex").await;
    let user = register(&engine.executor, other.id(), 3, &[Role::Member]).await;
    settled(&database, &other, ONBOARDING).await;
    assert_one_customer_each(&other, &[user]).await;
    let checkpoints = engine.store.checkpoints(Some("saga.customer_onboarding")).await.expect("reads");
    let reached = checkpoints.iter().find(|(id, ..)| *id == tenant.id()).map(|(.., at)| at.position);
    assert!(reached.is_some_and(|position| position <= known), "{reached:?} of {known}");
    assert_one_customer_each(&tenant, &[early]).await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_led_to_a_customer_can_be_followed_back() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let engine = Engine::start(&database, &server, sagas::processes()).await;
    let tenant = open_tenant(&engine.store, "acme").await;
    let user = register(&engine.executor, tenant.id(), 1, &[Role::Member]).await;
    settled(&database, &tenant, ONBOARDING).await;
    let log = read_log(&tenant).await;
    let of = |event_type: &str| {
        log.iter().find(|event| event.event_type.as_str() == event_type).expect(event_type)
    };
    let registered = of("identity.user.registered.v1");
    assert_eq!(registered.stream.uuid(), Some(user));
    for led_to in [COMPLETE[0], "crm.customer.registered.v1", COMPLETE[1]].map(of) {
        assert_eq!(led_to.metadata.causation_id, Some(registered.event_id));
        assert_eq!(led_to.metadata.correlation_id, registered.metadata.correlation_id);
        assert_eq!(led_to.metadata.actor.as_str(), "saga:customer_onboarding");
    }
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_delivered_all_over_again_change_nothing() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let engine = Engine::start(&database, &server, sagas::processes()).await;
    let tenant = open_tenant(&engine.store, "acme").await;
    let mut users = Vec::new();
    for n in 0..20 {
        users.push(register(&engine.executor, tenant.id(), n, &[Role::Member]).await);
    }
    settled(&database, &tenant, ONBOARDING).await;
    engine.stop().await;
    let before = tenant.head().await.expect("a head");

    let owner = database.connect("postgres").await;
    owner.execute("delete from checkpoints", &[]).await.expect("the saga forgets how far it was");
    let engine = Engine::start(&database, &server, sagas::processes()).await;
    settled(&database, &tenant, ONBOARDING).await;
    assert_eq!(tenant.head().await.expect("a head"), before, "nothing was appended");
    assert_one_customer_each(&tenant, &users).await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_the_reaction_and_the_checkpoint_repeats_harmlessly() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let engine = Engine::start(&database, &server, sagas::processes()).await;
    let tenant = open_tenant(&engine.store, "acme").await;
    // Rows cannot be written, so the engine stops right behind the append of its reaction.
    let mut owner = database.connect("postgres").await;
    let lock = owner.transaction().await.expect("a transaction");
    lock.batch_execute("lock table saga_steps in exclusive mode").await.expect("locks");
    let user = register(&engine.executor, tenant.id(), 1, &[Role::Member]).await;
    let stream = instance_stream(ONBOARDING, user);
    wait_until("the reaction is recorded", || async { types(&tenant, &stream).await == COMPLETE[..1] }).await;
    engine.abort().await;
    lock.rollback().await.expect("unlocks");
    assert_eq!(customers(&tenant).await.len(), 0);

    let engine = Engine::start(&database, &server, sagas::processes()).await;
    settled(&database, &tenant, ONBOARDING).await;
    assert_one_customer_each(&tenant, &[user]).await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_and_their_crashes_make_one_customer_each() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let steady = Engine::start(&database, &server, sagas::processes()).await;
    let tenant = open_tenant(&steady.store, "acme").await;
    let mut users = Vec::new();
    for round in 0..4 {
        let other = Engine::start(&database, &server, sagas::processes()).await;
        let registering =
            (0..25).map(|n| register(&steady.executor, tenant.id(), round * 25 + n, &[Role::Member]));
        users.extend(futures::future::join_all(registering).await);
        other.abort().await;
    }
    settled(&database, &tenant, ONBOARDING).await;
    assert_one_customer_each(&tenant, &users).await;
    steady.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_database_connections_are_no_refusals() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let engine = Engine::start(&database, &server, sagas::processes()).await;
    let tenant = open_tenant(&engine.store, "acme").await;
    let owner = database.connect("postgres").await;
    let cut = async {
        let mut cuts = tokio::time::interval(Duration::from_millis(50));
        for _ in 0..20 {
            cuts.tick().await;
            let sql = "select pg_terminate_backend(pid) from pg_stat_activity
                       where datname = current_database() and usename like 'annals_%'";
            owner.execute(sql, &[]).await.expect("the connections are cut");
        }
    };
    let registering = (0..100).map(|n| register(&engine.executor, tenant.id(), n, &[Role::Member]));
    let (users, ()) = futures::join!(futures::future::join_all(registering), cut);
    wait_until("the store answers again", || async { tenant.head().await.is_ok() }).await;
    settled(&database, &tenant, ONBOARDING).await;
    assert_one_customer_each(&tenant, &users).await;
    assert_eq!(engine.store.dead_letters(None, None, 10).await.expect("the dead letters read"), []);
    relayed(&engine.store).await;
    engine.stop().await;
}
