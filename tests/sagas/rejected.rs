//! A step that is always refused: retried with backoff, then a visible dead letter, then, once the cause is mended,
//! another try.

use access::Principal;
use std::sync::Arc;

use commands::{AnyCommand, CommandContext, Customer};
use sagas::engine::process::target_id;
use sagas::{
    DiscardOutcome, Process, Reaction, RetryOutcome, Trigger, discard_dead_letter, retry_dead_letter,
};
use schemas::crm::customer::{CustomerCommand, CustomerDetails};
use schemas::engine::{DecodeError, Email, Name, StreamName, ids};
use schemas::identity::role::Role;
use schemas::saga::instance_stream;
use store::{DeadLetter, DeadLetterStatus, ExpectedVersion, Store, StreamAppend, TenantStore};
use uuid::Uuid;

use crate::support::nats_server::NatsServer;
use crate::support::postgres::{Database, event, metadata, open_tenant};
use crate::support::relay::wait_until;
use crate::support::saga_engine::{Engine, register, settled, types};

const NAME: &str = "renaming";
const STEP: &str = "rename";

/// Renames a customer whom nobody has registered.
struct Renaming;

impl Process for Renaming {
    fn name(&self) -> &'static str {
        NAME
    }

    fn react(&self, trigger: Trigger<'_>) -> Result<Option<Reaction>, DecodeError> {
        let (true, Some(instance)) =
            (trigger.event.event_type.as_str() == "test.order.placed.v1", trigger.event.stream.uuid())
        else {
            return Ok(None);
        };
        let command = AnyCommand::new(
            target_id(NAME, instance, STEP),
            &CustomerCommand::RenameCustomer { name: Name::parse("Renamed").expect("valid") },
        );
        Ok(Some(Reaction::new(instance, "renaming").step(STEP, command)))
    }
}

pub async fn place_order(tenant: &TenantStore) -> Uuid {
    let instance = ids::new_id();
    let stream = StreamName::new("test.order", instance);
    let events = vec![event("test.order.placed.v1", "{}")];
    let append = StreamAppend::new(stream, ExpectedVersion::NoStream, events, metadata());
    tenant.append(append).await.expect("the order is placed");
    instance
}

async fn letter(store: &Store) -> Option<DeadLetter> {
    store.dead_letters(None, None, 10).await.expect("the dead letters read").into_iter().next()
}

async fn letter_in(store: &Store, status: DeadLetterStatus) -> DeadLetter {
    wait_until("a dead letter of that status", || async {
        letter(store).await.is_some_and(|letter| letter.status == status)
    })
    .await;
    letter(store).await.expect("seen above")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_refused_to_the_last_waits_in_the_dead_letters_until_its_cause_is_mended() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let mut processes = sagas::processes();
    processes.push(Arc::new(Renaming));
    let engine = Engine::start(&database, &server, processes).await;
    let tenant = open_tenant(&engine.store, "acme").await;
    let instance = place_order(&tenant).await;
    // It holds up nobody else: not another process, not another tenant.
    let other = open_tenant(&engine.store, "globex").await;
    for tenant in [&tenant, &other] {
        let user = register(&engine.executor, tenant.id(), 1, &[Role::Member]).await;
        settled(&database, tenant, "customer_onboarding").await;
        assert_eq!(types(tenant, &instance_stream("customer_onboarding", user)).await.len(), 2);
    }

    let dead = letter_in(&engine.store, DeadLetterStatus::Open).await;
    assert_eq!(
        (dead.tenant, dead.consumer.as_str(), dead.subject.as_str()),
        (tenant.id(), "saga.renaming", STEP)
    );
    assert_eq!((dead.error_code.as_str(), dead.attempts, dead.position), ("NOT_FOUND", 3, 1));
    let history = dead.history.as_array().expect("a list");
    assert_eq!(history.len(), 3);
    assert!(history.iter().all(|refusal| refusal["code"] == "NOT_FOUND" && refusal["at"].is_string()));
    let stream = instance_stream(NAME, instance);
    assert_eq!(types(&tenant, &stream).await, ["saga.renaming.reacted.v1", "saga.renaming.step_failed.v1"]);

    // Another try while nothing is mended ends where the first did, with the whole history.
    assert_eq!(retry_dead_letter(&engine.store, dead.id).await.expect("retries"), RetryOutcome::Retrying);
    wait_until("it is refused again", || async {
        letter(&engine.store)
            .await
            .is_some_and(|letter| letter.status == DeadLetterStatus::Open && letter.attempts == 6)
    })
    .await;

    let id = target_id(NAME, instance, STEP);
    let context = CommandContext::new(tenant.id(), Principal::system("test"));
    let mended = CustomerCommand::RegisterCustomer {
        user_id: None,
        details: CustomerDetails {
            name: Name::parse("Ada").expect("valid"),
            email: Email::parse("ada@example.com").expect("valid"),
            company: None,
            notes: None,
        },
    };
    let registered = engine
        .executor
        .execute::<Customer>(&context, id, mended, commands::CommandSideEffects::default())
        .await;
    registered.expect("the customer is registered");
    assert_eq!(retry_dead_letter(&engine.store, dead.id).await.expect("retries"), RetryOutcome::Retrying);
    let resolved = letter_in(&engine.store, DeadLetterStatus::Resolved).await;
    assert_eq!(resolved.id, dead.id);
    let (customer, _) =
        engine.executor.load::<Customer>(tenant.id(), id).await.expect("loads").expect("exists");
    assert_eq!(customer.name, "Renamed");
    settled(&database, &tenant, NAME).await;
    assert_eq!(
        types(&tenant, &stream).await.last().map(String::as_str),
        Some("saga.renaming.step_completed.v1")
    );

    let again = retry_dead_letter(&engine.store, dead.id).await.expect("answers");
    assert_eq!(again, RetryOutcome::Settled(DeadLetterStatus::Resolved));
    let unknown = retry_dead_letter(&engine.store, ids::new_id()).await.expect("answers");
    assert_eq!(unknown, RetryOutcome::NotFound);
    let too_late = discard_dead_letter(&engine.store, dead.id).await.expect("answers");
    assert_eq!(too_late, DiscardOutcome::Settled(DeadLetterStatus::Resolved));
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_a_saga_cannot_read_stands_in_the_dead_letters_and_holds_nobody_up() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let engine = Engine::start(&database, &server, sagas::processes()).await;
    let tenant = open_tenant(&engine.store, "acme").await;
    let stream = StreamName::new("identity.user", ids::new_id());
    let poison = vec![event("identity.user.registered.v1", r#"{"email":7}"#)];
    let append = StreamAppend::new(stream, ExpectedVersion::NoStream, poison, metadata());
    tenant.append(append).await.expect("the log takes any JSON");
    let user = register(&engine.executor, tenant.id(), 1, &[Role::Member]).await;
    settled(&database, &tenant, "customer_onboarding").await;
    assert_eq!(types(&tenant, &instance_stream("customer_onboarding", user)).await.len(), 2);

    let dead = letter_in(&engine.store, DeadLetterStatus::Open).await;
    assert_eq!(
        (dead.subject.as_str(), dead.error_code.as_str()),
        ("identity.user.registered.v1", "UNDECODABLE")
    );
    assert_eq!(retry_dead_letter(&engine.store, dead.id).await.expect("retries"), RetryOutcome::Retrying);
    let dead_again = letter_in(&engine.store, DeadLetterStatus::Open).await;
    assert_eq!((dead_again.id, dead_again.attempts), (dead.id, 3));
    let discarded = discard_dead_letter(&engine.store, dead.id).await.expect("discards");
    assert_eq!(discarded, DiscardOutcome::Discarded);
    let steps: i64 = database
        .connect("postgres")
        .await
        .query_one("select count(*) from saga_steps", &[])
        .await
        .expect("counts")
        .get(0);
    assert_eq!(steps, 0);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_discarded_step_is_closed_in_the_instances_stream() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let engine = Engine::start(&database, &server, vec![Arc::new(Renaming)]).await;
    let tenant = open_tenant(&engine.store, "acme").await;
    let instance = place_order(&tenant).await;
    let dead = letter_in(&engine.store, DeadLetterStatus::Open).await;
    // Whoever asks twice gets the same answer, and there is one fact.
    for _ in 0..2 {
        let discarded = discard_dead_letter(&engine.store, dead.id).await.expect("discards");
        assert_eq!(discarded, DiscardOutcome::Discarded);
    }
    let refused = retry_dead_letter(&engine.store, dead.id).await.expect("answers");
    assert_eq!(refused, RetryOutcome::Settled(DeadLetterStatus::Discarded));
    settled(&database, &tenant, NAME).await;
    assert_eq!(
        types(&tenant, &instance_stream(NAME, instance)).await,
        ["saga.renaming.reacted.v1", "saga.renaming.step_failed.v1", "saga.renaming.step_discarded.v1"]
    );
    let letter = letter(&engine.store).await.expect("it is kept");
    assert_eq!((letter.status, letter.attempts), (DeadLetterStatus::Discarded, 3));
    let unknown = discard_dead_letter(&engine.store, ids::new_id()).await.expect("answers");
    assert_eq!(unknown, DiscardOutcome::NotFound);
    engine.stop().await;
}
