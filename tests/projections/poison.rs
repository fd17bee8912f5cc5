//! Events that cannot be applied: one tenant stands still in one read model, everybody else goes on, an operator decides.

use access::Principal;
use commands::{CommandContext, CommandSideEffects, Customer, ExecuteError, Executor};
use projections::{CUSTOMERS, CustomerRow, ProjectionState, UserRow};
use schemas::crm::customer::CustomerCommand;
use schemas::engine::{StreamName, ids};
use store::{DeadLetter, DeadLetterStatus, ExpectedVersion, Store, StreamAppend, TenantStore};
use uuid::Uuid;

use crate::support::eventually;
use crate::support::postgres::{Database, event, metadata, open_tenant};
use crate::support::read_models::{
    caught_up, customers, frequent_comparison, keep, no_notifications, register, rename,
};

/// An event that no rule would have let through.
pub async fn append_raw(tenant: &TenantStore, id: Uuid, event_type: &str, payload: &str) {
    let stream = StreamName::new("crm.customer", id);
    let append =
        StreamAppend::new(stream, ExpectedVersion::Any, vec![event(event_type, payload)], metadata());
    tenant.append(append).await.expect("appends");
}

async fn letters(store: &Store) -> Vec<DeadLetter> {
    store.dead_letters(None, None, 100).await.expect("reads")
}

pub async fn letter_with(store: &Store, wanted: impl Fn(&DeadLetter) -> bool) -> DeadLetter {
    eventually("a dead letter", || async { letters(store).await.into_iter().find(&wanted) }).await
}

pub async fn decide(tenant: &TenantStore, letter: &DeadLetter, status: DeadLetterStatus) {
    let transaction = tenant.begin_worker_transaction().await.expect("begins");
    assert!(transaction.set_dead_letter_status(letter.id, status).await.expect("writes"));
    transaction.commit().await.expect("commits");
}

async fn position(store: &Store, tenant: &TenantStore) -> u64 {
    let checkpoints = store.checkpoints(Some(CUSTOMERS)).await.expect("reads");
    checkpoints.iter().find(|(id, ..)| *id == tenant.id()).map_or(0, |(.., at)| at.position)
}

#[tokio::test]
async fn a_poisonous_event_stops_its_tenant_in_one_read_model_only() {
    let database = Database::create().await;
    let store = database.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let (sick, well) = (open_tenant(&store, "sick").await, open_tenant(&store, "well").await);
    let ada = register(&executor, &sick, "Ada").await;
    append_raw(&sick, ada, "crm.customer.renamed.v1", r#"{"name":"ada@example.com","name":7}"#).await;
    let bo = register(&executor, &sick, "Bo").await;
    register(&executor, &well, "Cy").await;

    let _keepers = (
        keep::<CustomerRow>(&store, no_notifications(), frequent_comparison()),
        keep::<CustomerRow>(&database.store().await, no_notifications(), frequent_comparison()),
        keep::<UserRow>(&store, no_notifications(), frequent_comparison()),
    );
    let letter = letter_with(&store, |letter| letter.tenant == sick.id()).await;
    assert_eq!((letter.consumer.as_str(), letter.position, letter.attempts), (CUSTOMERS, 2, 1));
    assert_eq!(
        (letter.subject.as_str(), letter.error_code.as_str()),
        ("crm.customer.renamed.v1", "PAYLOAD_INVALID")
    );
    assert_eq!(letter.status, DeadLetterStatus::Open);
    assert!(!letter.error.contains("ada@example.com"), "a dead letter holds no payload");

    caught_up::<CustomerRow>(&well).await;
    caught_up::<UserRow>(&sick).await;
    rename(&executor, &sick, bo, "Bo B").await;
    let later = register(&executor, &well, "Di").await;
    caught_up::<CustomerRow>(&well).await;
    assert!(customers(&well).await.contains_key(&later));
    // What was before the event is there, what is behind it is not.
    assert_eq!(customers(&sick).await.keys().collect::<Vec<_>>(), [&ada]);
    assert_eq!(position(&store, &sick).await, 1);
    assert_eq!(letters(&store).await.len(), 1, "two keepers write one letter");
}

#[tokio::test]
async fn an_event_of_a_newer_version_is_waited_for_and_is_no_dead_letter() {
    let store = Database::create().await.store().await;
    let executor = Executor::new(store.clone(), 100);
    let (waiting, other) = (open_tenant(&store, "waiting").await, open_tenant(&store, "other").await);
    let ada = register(&executor, &waiting, "Ada").await;
    append_raw(&waiting, ada, "crm.customer.renamed.v2", r#"{"names":["Ada","L."]}"#).await;
    register(&executor, &waiting, "Bo").await;
    let _keepers = (
        keep::<CustomerRow>(&store, no_notifications(), frequent_comparison()),
        keep::<UserRow>(&store, no_notifications(), frequent_comparison()),
    );
    let state = eventually("the read model waits", || async {
        let lags = projections::lag(&store).await.expect("reads");
        let lag = lags.into_iter().find(|lag| lag.tenant == waiting.id() && lag.projection == CUSTOMERS)?;
        matches!(lag.state, ProjectionState::Waiting { .. }).then_some(lag.state)
    })
    .await;
    assert_eq!(state, ProjectionState::Waiting { event_type: "crm.customer.renamed.v2".to_owned() });
    assert_eq!(position(&store, &waiting).await, 1);
    caught_up::<UserRow>(&waiting).await;
    register(&executor, &other, "Cy").await;
    caught_up::<CustomerRow>(&other).await;
    assert_eq!(customers(&waiting).await.keys().collect::<Vec<_>>(), [&ada]);
    assert_eq!(letters(&store).await, []);

    // The rules do not know the state of the customer either.
    let context = CommandContext::new(waiting.id(), Principal::system("test"));
    let close = CustomerCommand::CloseCustomer { reason: None };
    let closed = executor.execute::<Customer>(&context, ada, close, CommandSideEffects::default()).await;
    assert!(matches!(closed, Err(ExecuteError::Unavailable(_))));
}

#[tokio::test]
async fn a_discarded_event_is_passed_over() {
    let store = Database::create().await.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenant = open_tenant(&store, "acme").await;
    let ada = register(&executor, &tenant, "Ada").await;
    append_raw(&tenant, ada, "crm.customer.renamed.v1", "{}").await;
    let bo = register(&executor, &tenant, "Bo").await;
    {
        let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
        let letter = letter_with(&store, |letter| letter.status == DeadLetterStatus::Open).await;
        assert_eq!(letter.error_code, "PAYLOAD_INVALID");
        decide(&tenant, &letter, DeadLetterStatus::Discarded).await;
    }
    // Another process does what was decided.
    let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
    caught_up::<CustomerRow>(&tenant).await;
    assert_eq!(customers(&tenant).await.len(), 2);
    assert!(customers(&tenant).await.contains_key(&bo));
    assert_eq!(letters(&store).await.len(), 1);
    assert_eq!(letters(&store).await[0].status, DeadLetterStatus::Discarded);
}

#[tokio::test]
async fn a_retried_event_is_resolved_or_fails_again() {
    let database = Database::create().await;
    let store = database.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenant = open_tenant(&store, "acme").await;
    let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
    let id = register(&executor, &tenant, "Ada").await;
    caught_up::<CustomerRow>(&tenant).await;

    // Somebody has deleted the row, so the next event finds nothing to change.
    let superuser = database.connect("postgres").await;
    superuser.batch_execute("create table kept as select * from customers_v2").await.expect("copies");
    superuser.batch_execute("delete from customers_v2").await.expect("deletes");
    rename(&executor, &tenant, id, "Bo").await;
    let letter = letter_with(&store, |letter| letter.status == DeadLetterStatus::Open).await;
    assert_eq!((letter.error_code.as_str(), letter.attempts), ("EVENT_OUT_OF_SEQUENCE", 1));

    decide(&tenant, &letter, DeadLetterStatus::Retrying).await;
    let again = letter_with(&store, |letter| letter.attempts == 2).await;
    assert_eq!(
        (again.id, again.status, again.first_at),
        (letter.id, DeadLetterStatus::Open, letter.first_at)
    );
    assert_eq!(again.history.as_array().map(Vec::len), Some(2));

    superuser.batch_execute("insert into customers_v2 select * from kept").await.expect("restores");
    decide(&tenant, &letter, DeadLetterStatus::Retrying).await;
    caught_up::<CustomerRow>(&tenant).await;
    assert_eq!(customers(&tenant).await[&id].name, "Bo");
    assert_eq!(letters(&store).await[0].status, DeadLetterStatus::Resolved);

    rename(&executor, &tenant, id, "Cy").await;
    caught_up::<CustomerRow>(&tenant).await;
    assert_eq!(letters(&store).await.len(), 1);
}

#[tokio::test]
async fn a_row_that_the_database_refuses_is_found_among_many() {
    let database = Database::create().await;
    let store = database.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenant = open_tenant(&store, "acme").await;
    for n in 0..40 {
        register(&executor, &tenant, if n == 27 { "Forbidden" } else { "Fine" }).await;
    }
    let superuser = database.connect("postgres").await;
    superuser
        .batch_execute("alter table customers_v2 add check (name <> 'Forbidden')")
        .await
        .expect("alters");

    let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
    let letter = letter_with(&store, |letter| letter.status == DeadLetterStatus::Open).await;
    assert_eq!((letter.error_code.as_str(), letter.position), ("CONSTRAINT_VIOLATION", 28));
    assert!(!letter.error.contains("Forbidden"));
    assert_eq!(customers(&tenant).await.len(), 27);

    decide(&tenant, &letter, DeadLetterStatus::Discarded).await;
    caught_up::<CustomerRow>(&tenant).await;
    assert_eq!(customers(&tenant).await.len(), 39);
}

#[tokio::test]
async fn a_tenant_that_was_stopped_stays_so_in_the_next_process() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    append_raw(&tenant, ids::new_id(), "crm.customer.closed.v1", "{}").await;
    let letter = {
        let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
        letter_with(&store, |letter| letter.status == DeadLetterStatus::Open).await
    };
    let other = open_tenant(&store, "other").await;
    register(&Executor::new(store.clone(), 1024 * 1024), &other, "Ada").await;
    let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
    caught_up::<CustomerRow>(&other).await;
    assert_eq!(position(&store, &tenant).await, 0);
    assert_eq!(letters(&store).await, [letter], "it was not even tried");
}
