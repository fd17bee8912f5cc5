//! Rules of the saga engine that are made false behind the product: the saga of that tenant stops, nothing is repaired,
//! and other tenants continue.

use schemas::engine::{RecordedEvent, TenantId};
use schemas::identity::role::Role;
use schemas::saga::instance_stream;
use store::{Invariant, TenantStore};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::nats_server::NatsServer;
use crate::support::postgres::{Database, open_tenant};
use crate::support::relay::{read_log, wait_until};
use crate::support::saga_engine::{Engine, register, settled, types};
use crate::support::violations::Reports;

const ONBOARDING: &str = "customer_onboarding";
const REACTED: &str = "saga.customer_onboarding.reacted.v1";
const COMPLETED: &str = "saga.customer_onboarding.step_completed.v1";

/// A tenant with one user who became a customer.
async fn onboarded(engine: &Engine, database: &Database, slug: &str) -> (TenantStore, RecordedEvent) {
    let tenant = open_tenant(&engine.store, slug).await;
    register(&engine.executor, tenant.id(), 1, &[Role::Member]).await;
    settled(database, &tenant, ONBOARDING).await;
    let registered = read_log(&tenant).await.remove(0);
    (tenant, registered)
}

/// Replaces a text in the payload of the only event of a type.
async fn alter(owner: &Client, tenant: TenantId, event_type: &str, old: &str, new: &str) {
    let sql = "update events set payload = convert_to(replace(convert_from(payload, 'UTF8'), $3, $4), 'UTF8')
               where tenant_id = $1 and type = $2 and position($3 in convert_from(payload, 'UTF8')) > 0";
    let changed = owner.execute(sql, &[&tenant.0, &event_type, &old, &new]).await.expect("alters");
    assert_eq!(changed, 1);
}

/// Makes a step of the saga due that sends the recorded command.
async fn make_due(owner: &Client, tenant: TenantId, trigger: &RecordedEvent, step: &str) {
    let sql = "insert into saga_steps (tenant_id, saga, instance, step, trigger_event, correlation_id, command, attempts,
                                       next_attempt_at, status, history)
               values ($1, $2, $3, $4, $5, $5, $6, 0, now(), 'pending', '[]')";
    let command = format!("{{\"work\": \"send_recorded\", \"trigger_position\": {}}}", trigger.position);
    let instance = trigger.stream.uuid().expect("a user");
    owner
        .execute(sql, &[&tenant.0, &ONBOARDING, &instance, &step, &trigger.event_id, &command])
        .await
        .expect("inserts");
}

/// The events of a tenant, and its steps with their state.
async fn stored(owner: &Client, tenant: TenantId) -> String {
    let sql = "select concat((select md5(string_agg(payload, '' order by position)) from events where tenant_id = $1),
                             (select string_agg(concat(' ', step, ' ', status, ' ', attempts), '' order by step)
                              from saga_steps where tenant_id = $1))";
    owner.query_one(sql, &[&tenant.0]).await.expect("reads").get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_without_its_reaction_stops_the_saga_of_its_tenant() {
    let reports = Reports::of(Invariant::ReactionRecorded).await;
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let engine = Engine::start(&database, &server, sagas::processes()).await;
    let (broken, trigger) = onboarded(&engine, &database, "broken").await;
    let (whole, _) = onboarded(&engine, &database, "whole").await;
    engine.stop().await;
    let owner = database.connect("postgres").await;
    owner.batch_execute("delete from checkpoints where consumer like 'saga.%'").await.expect("deletes");
    let foreign = Uuid::nil().to_string();
    alter(&owner, broken.id(), REACTED, &trigger.event_id.to_string(), &foreign).await;
    let before = stored(&owner, broken.id()).await;

    let engine = Engine::start(&database, &server, sagas::processes()).await;
    reports.reach(1).await;
    register(&engine.executor, whole.id(), 2, &[Role::Member]).await;
    settled(&database, &whole, ONBOARDING).await;
    assert_eq!(stored(&owner, broken.id()).await, before);
    let user = register(&engine.executor, broken.id(), 2, &[Role::Member]).await;
    register(&engine.executor, whole.id(), 3, &[Role::Member]).await;
    settled(&database, &whole, ONBOARDING).await;
    assert_eq!(types(&broken, &instance_stream(ONBOARDING, user)).await, [""; 0]);
    let transaction = broken.begin_worker_transaction().await.expect("begins");
    assert_eq!(transaction.checkpoint("saga.customer_onboarding").await.expect("reads"), None);
    assert!(engine.store.dead_letters(None, None, 10).await.expect("reads").is_empty());
    engine.stop().await;
    assert_eq!(reports.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_whose_command_id_does_not_derive_from_it_stops_the_steps_of_its_tenant() {
    let reports = Reports::of(Invariant::StepCommandId).await;
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let engine = Engine::start(&database, &server, sagas::processes()).await;
    let (altered, altered_trigger) = onboarded(&engine, &database, "altered").await;
    let (invented, invented_trigger) = onboarded(&engine, &database, "invented").await;
    let (whole, _) = onboarded(&engine, &database, "whole").await;
    engine.stop().await;
    let owner = database.connect("postgres").await;
    let instance = altered_trigger.stream.uuid().expect("a user");
    let id = sagas::engine::process::command_id(ONBOARDING, instance, "register_customer").to_string();
    alter(&owner, altered.id(), COMPLETED, &id, &Uuid::nil().to_string()).await;
    make_due(&owner, altered.id(), &altered_trigger, "register_customer").await;
    make_due(&owner, invented.id(), &invented_trigger, "register_twice").await;
    let before = (stored(&owner, altered.id()).await, stored(&owner, invented.id()).await);
    assert!(before.0.ends_with(" register_customer pending 0"), "{before:?}");

    let engine = Engine::start(&database, &server, sagas::processes()).await;
    reports.reach(2).await;
    register(&engine.executor, whole.id(), 2, &[Role::Member]).await;
    settled(&database, &whole, ONBOARDING).await;
    assert_eq!((stored(&owner, altered.id()).await, stored(&owner, invented.id()).await), before);
    // The saga still reacts, and its steps wait.
    for tenant in [&altered, &invented] {
        let user = register(&engine.executor, tenant.id(), 2, &[Role::Member]).await;
        let stream = instance_stream(ONBOARDING, user);
        wait_until("the saga reacts", || async { !types(tenant, &stream).await.is_empty() }).await;
        register(&engine.executor, whole.id(), 3, &[Role::Member]).await;
        settled(&database, &whole, ONBOARDING).await;
        assert_eq!(types(tenant, &stream).await, [REACTED]);
    }
    assert!(engine.store.dead_letters(None, None, 10).await.expect("reads").is_empty());
    engine.stop().await;
    assert_eq!(reports.count(), 2);
}
