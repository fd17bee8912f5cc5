//! Compensation: a booking of three customers, one of whom cannot be had, is taken back in reverse.

use access::Principal;
use std::sync::Arc;

use commands::{AnyCommand, CommandContext, CommandSideEffects, Customer};
use futures::TryStreamExt;
use sagas::engine::process::target_id;
use sagas::{Process, Reaction, Trigger};
use schemas::crm::customer::{CustomerCommand, CustomerDetails, CustomerStatus};
use schemas::engine::{DecodeError, Email, Name, RecordedEvent};
use schemas::saga::{SagaStepCompleted, instance_stream};
use store::{DeadLetterStatus, TenantStore};
use uuid::Uuid;

use super::rejected::place_order;
use crate::support::nats_server::NatsServer;
use crate::support::postgres::{Database, open_tenant};
use crate::support::relay::wait_until;
use crate::support::saga_engine::{Engine, settled, types};

const NAME: &str = "booking";
const BOOKED: [&str; 3] = ["first", "second", "third"];

/// Registers three customers and renames one whom nobody has registered.
struct Booking;

impl Process for Booking {
    fn name(&self) -> &'static str {
        NAME
    }

    fn react(&self, trigger: Trigger<'_>) -> Result<Option<Reaction>, DecodeError> {
        let (true, Some(instance)) =
            (trigger.event.event_type.as_str() == "test.order.placed.v1", trigger.event.stream.uuid())
        else {
            return Ok(None);
        };
        let booking = BOOKED.into_iter().fold(Reaction::new(instance, "booking"), |booking, label| {
            let id = target_id(NAME, instance, label);
            let command = CustomerCommand::RegisterCustomer {
                user_id: None,
                details: CustomerDetails {
                    name: Name::parse(label).expect("valid"),
                    email: Email::parse("ada@example.com").expect("valid"),
                    company: None,
                    notes: None,
                },
            };
            let undo = AnyCommand::new(id, &CustomerCommand::CloseCustomer { reason: None });
            booking.step_with_compensation(label, AnyCommand::new(id, &command), undo)
        });
        let rename = AnyCommand::new(
            target_id(NAME, instance, "impossible"),
            &CustomerCommand::RenameCustomer { name: Name::parse("Nobody").expect("valid") },
        );
        // What took no effect is not taken back, although it could be.
        let undo = AnyCommand::new(
            target_id(NAME, instance, "impossible"),
            &CustomerCommand::CloseCustomer { reason: None },
        );
        Ok(Some(booking.step_with_compensation("impossible", rename, undo)))
    }
}

/// The labels of the steps that took effect, in order.
async fn completed(tenant: &TenantStore, instance: Uuid) -> Vec<String> {
    let stream = instance_stream(NAME, instance);
    let events: Vec<RecordedEvent> = tenant.read_stream(&stream, 1).try_collect().await.expect("reads");
    let read = |event: &RecordedEvent| {
        let is_completion = event.event_type.as_str() == "saga.booking.step_completed.v1";
        is_completion.then(|| {
            let completed: SagaStepCompleted = serde_json::from_slice(&event.payload).expect("reads");
            completed.step
        })
    };
    events.iter().filter_map(read).collect()
}

async fn assert_taken_back(engine: &Engine, tenant: &TenantStore, instance: Uuid) {
    let completed = completed(tenant, instance).await;
    let (done, undone) = completed.split_at(BOOKED.len());
    let reverse: Vec<String> = done.iter().rev().map(|step| format!("undo/{step}")).collect();
    assert_eq!(undone, reverse);
    for label in BOOKED {
        let id = target_id(NAME, instance, label);
        let (customer, version) =
            engine.executor.load::<Customer>(tenant.id(), id).await.expect("loads").expect("is there");
        assert_eq!((customer.status, version), (CustomerStatus::Closed, 2), "{label}");
    }
    let started = types(tenant, &instance_stream(NAME, instance)).await;
    let started = started.iter().filter(|told| *told == "saga.booking.compensation_started.v1").count();
    assert_eq!(started, 1);
    assert_eq!(engine.store.dead_letters(None, None, 10).await.expect("the dead letters read"), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_is_taken_back_in_reverse_when_a_step_fails_for_good() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let engine = Engine::start(&database, &server, vec![Arc::new(Booking)]).await;
    let tenant = open_tenant(&engine.store, "acme").await;
    let mut instances = Vec::new();
    for _ in 0..5 {
        instances.push(place_order(&tenant).await);
    }
    settled(&database, &tenant, NAME).await;
    for instance in &instances {
        assert_taken_back(&engine, &tenant, *instance).await;
    }
    engine.stop().await;

    // Delivered all over again, it is what it was.
    let before = tenant.head().await.expect("a head");
    let owner = database.connect("postgres").await;
    owner.execute("delete from checkpoints", &[]).await.expect("the saga forgets how far it was");
    let engine = Engine::start(&database, &server, vec![Arc::new(Booking)]).await;
    settled(&database, &tenant, NAME).await;
    assert_eq!(tenant.head().await.expect("a head"), before, "nothing was appended");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_die_in_the_middle_take_back_everything_once() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let steady = Engine::start(&database, &server, vec![Arc::new(Booking)]).await;
    let tenant = open_tenant(&steady.store, "acme").await;
    let mut instances = Vec::new();
    for _ in 0..3 {
        let other = Engine::start(&database, &server, vec![Arc::new(Booking)]).await;
        for _ in 0..8 {
            instances.push(place_order(&tenant).await);
        }
        other.abort().await;
    }
    // What a process that died had in hand is nobody's for the time of its lease.
    settled(&database, &tenant, NAME).await;
    for instance in &instances {
        let done = completed(&tenant, *instance).await;
        assert_eq!(done.len(), 2 * BOOKED.len(), "{done:?}");
        for label in BOOKED {
            let id = target_id(NAME, *instance, label);
            let loaded = steady.executor.load::<Customer>(tenant.id(), id).await.expect("loads");
            assert!(
                loaded.is_some_and(
                    |(customer, version)| customer.status == CustomerStatus::Closed && version == 2
                )
            );
        }
    }
    steady.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_takes_effect_too_late_is_taken_back_as_well() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let owner = database.connect("postgres").await;
    owner
        .batch_execute(
            "create function hold() returns trigger language plpgsql as
                 $$ begin new.next_attempt_at = now() + interval '1 hour'; return new; end $$;
             create trigger hold before insert on saga_steps for each row when (new.step = 'third')
                 execute function hold()",
        )
        .await
        .expect("the third step is held up");
    let engine = Engine::start(&database, &server, vec![Arc::new(Booking)]).await;
    let tenant = open_tenant(&engine.store, "acme").await;
    let instance = place_order(&tenant).await;
    wait_until("the others are taken back", || async { completed(&tenant, instance).await.len() == 4 }).await;
    owner.batch_execute("update saga_steps set next_attempt_at = now()").await.expect("updates");
    settled(&database, &tenant, NAME).await;
    assert_eq!(completed(&tenant, instance).await[4..], ["third", "undo/third"]);
    let id = target_id(NAME, instance, "third");
    let loaded = engine.executor.load::<Customer>(tenant.id(), id).await.expect("loads");
    assert_eq!(loaded.map(|(customer, _)| customer.status), Some(CustomerStatus::Closed));
    let told = types(&tenant, &instance_stream(NAME, instance)).await;
    let started = told.iter().filter(|told| *told == "saga.booking.compensation_started.v1").count();
    assert_eq!(started, 2, "the log tells why it was taken back");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compensation_that_is_refused_stands_in_the_dead_letters_and_the_rest_follows_when_it_is_discarded()
{
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let engine = Engine::start(&database, &server, vec![Arc::new(Hopeless)]).await;
    let tenant = open_tenant(&engine.store, "acme").await;
    let instance = place_order(&tenant).await;
    let letter = async || {
        let letters = engine.store.dead_letters(None, None, 10).await.expect("reads");
        letters.into_iter().find(|letter| letter.status == DeadLetterStatus::Open)
    };
    wait_until("the compensation is refused to the last", || async { letter().await.is_some() }).await;
    let dead = letter().await.expect("seen above");
    assert_eq!((dead.subject.as_str(), dead.attempts), ("undo/second", 3));
    let first = target_id(Hopeless.name(), instance, "first");
    let status = async || {
        let loaded = engine.executor.load::<Customer>(tenant.id(), first).await.expect("loads");
        loaded.map(|(customer, _)| customer.status)
    };
    assert_eq!(status().await, Some(CustomerStatus::Active));
    sagas::discard_dead_letter(&engine.store, dead.id).await.expect("discards");
    settled(&database, &tenant, Hopeless.name()).await;
    assert_eq!(status().await, Some(CustomerStatus::Closed));
    engine.stop().await;
}

/// As the booking, one after the other; but what takes the second step back cannot be done either.
struct Hopeless;

impl Process for Hopeless {
    fn name(&self) -> &'static str {
        "hopeless"
    }

    fn route(&self, event: &RecordedEvent) -> Result<Option<Uuid>, DecodeError> {
        let concerns = ["test.order", "saga.hopeless"].contains(&event.stream.category());
        Ok(concerns.then(|| event.stream.uuid()).flatten())
    }

    fn react(&self, trigger: Trigger<'_>) -> Result<Option<Reaction>, DecodeError> {
        let Some(instance) = self.route(trigger.event)? else { return Ok(None) };
        let id = |label: &str| target_id("hopeless", instance, label);
        let register = |label: &'static str| {
            AnyCommand::new(
                id(label),
                &CustomerCommand::RegisterCustomer {
                    user_id: None,
                    details: CustomerDetails {
                        name: Name::parse(label).expect("valid"),
                        email: Email::parse("ada@example.com").expect("valid"),
                        company: None,
                        notes: None,
                    },
                },
            )
        };
        let close =
            |label: &str| AnyCommand::new(id(label), &CustomerCommand::CloseCustomer { reason: None });
        let completed = trigger.event.event_type.as_str() == "saga.hopeless.step_completed.v1";
        Ok(match (trigger.event.event_type.as_str(), trigger.instance.state.as_str()) {
            ("test.order.placed.v1", "") => Some(Reaction::new(instance, "first").step_with_compensation(
                "first",
                register("first"),
                close("first"),
            )),
            (_, "first") if completed => Some(Reaction::new(instance, "second").step_with_compensation(
                "second",
                register("second"),
                close("nobody"),
            )),
            (_, "second") if completed => Some(Reaction::new(instance, "last").step("last", close("nobody"))),
            _ => None,
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_was_mended_in_time_is_not_taken_back() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let engine = Engine::start(&database, &server, Vec::new()).await;
    let tenant = open_tenant(&engine.store, "acme").await;
    let instance = place_order(&tenant).await;
    let context = CommandContext::new(tenant.id(), Principal::system("test"));
    let command = CustomerCommand::RegisterCustomer {
        user_id: None,
        details: CustomerDetails {
            name: Name::parse("Ada").expect("valid"),
            email: Email::parse("ada@example.com").expect("valid"),
            company: None,
            notes: None,
        },
    };
    let id = target_id(NAME, instance, "impossible");
    engine
        .executor
        .execute::<Customer>(&context, id, command, CommandSideEffects::default())
        .await
        .expect("registers");
    engine.stop().await;
    let engine = Engine::start(&database, &server, vec![Arc::new(Booking)]).await;
    settled(&database, &tenant, NAME).await;
    assert_eq!(completed(&tenant, instance).await.len(), 4);
    engine.stop().await;
}
