//! Timers and state: an order that is to be paid in time, reminded of where it is not, and whose reminder a payment cancels.

use std::sync::Arc;
use std::time::Duration;

use commands::{AnyCommand, Customer};
use sagas::engine::process::target_id;
use sagas::{Process, Reaction, Trigger};
use schemas::crm::customer::{CustomerCommand, CustomerDetails};
use schemas::engine::{DecodeError, Email, Name, RecordedEvent, StreamName, TenantId, ids};
use schemas::saga::instance_stream;
use store::{ExpectedVersion, StreamAppend, TenantStore, Workload};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::rejected::place_order;
use crate::support::nats_server::NatsServer;
use crate::support::postgres::{Database, event, metadata, open_tenant};
use crate::support::relay::wait_until;
use crate::support::saga_engine::{Engine, settled, types};

const NAME: &str = "payment";
const REMINDER: &str = "reminder";
const REACTED: &str = "saga.payment.reacted.v1";
const FIRED: &str = "saga.payment.timer_fired.v1";
const COMPLETED: &str = "saga.payment.step_completed.v1";

/// Waits for the payment of an order. When that does not come in time a customer is registered, which stands for a reminder.
struct Payment {
    patience: Duration,
}

impl Process for Payment {
    fn name(&self) -> &'static str {
        NAME
    }

    fn route(&self, event: &RecordedEvent) -> Result<Option<Uuid>, DecodeError> {
        let concerns = event.stream.category() == "test.order" || event.stream.category() == "saga.payment";
        Ok(concerns.then(|| event.stream.uuid()).flatten())
    }

    fn react(&self, trigger: Trigger<'_>) -> Result<Option<Reaction>, DecodeError> {
        let Some(id) = self.route(trigger.event)? else { return Ok(None) };
        if trigger.fired_timer(NAME)?.as_deref() == Some(REMINDER) {
            let orders = trigger.instance.data.as_ref().and_then(serde_json::Value::as_u64).unwrap_or(0);
            let command = CustomerCommand::RegisterCustomer {
                user_id: None,
                details: CustomerDetails {
                    name: Name::parse(&format!("Reminded of {orders}")).expect("valid"),
                    email: Email::parse("ada@example.com").expect("valid"),
                    company: None,
                    notes: None,
                },
            };
            let command = AnyCommand::new(target_id(NAME, id, "remind"), &command);
            return Ok(Some(Reaction::new(id, "reminded").step("remind", command)));
        }
        let orders = trigger.instance.data.as_ref().and_then(serde_json::Value::as_u64).unwrap_or(0);
        Ok(match (trigger.event.event_type.as_str(), trigger.instance.state.as_str()) {
            ("test.order.placed.v1", "") => {
                Some(Reaction::new(id, "waiting").timer(REMINDER, self.patience).with_data(1.into()))
            }
            ("test.order.placed.v1", "waiting") => {
                Some(Reaction::new(id, "waiting").with_data((orders + 1).into()))
            }
            ("test.order.paid.v1", "waiting") => Some(Reaction::new(id, "paid").cancel_timer(REMINDER)),
            _ => None,
        })
    }
}

async fn append(tenant: &TenantStore, order: Uuid, event_types: &[&str]) {
    let stream = StreamName::new("test.order", order);
    let events = event_types.iter().map(|event_type| event(event_type, "{}")).collect();
    let append = StreamAppend::new(stream, ExpectedVersion::Any, events, metadata());
    tenant.append(append).await.expect("appends");
}

async fn reminded(engine: &Engine, tenant: &TenantStore, order: Uuid) -> Option<String> {
    let id = target_id(NAME, order, "remind");
    let loaded = engine.executor.load::<Customer>(tenant.id(), id).await.expect("loads");
    loaded.map(|(customer, _)| customer.name.clone())
}

fn waiting(patience: Duration) -> Vec<Arc<dyn Process>> {
    vec![Arc::new(Payment { patience })]
}

/// Waits until the timer of an order is a row.
async fn set(owner: &tokio_postgres::Client, order: Uuid) {
    wait_until("the timer is a row", || async {
        let sql = "select count(*) from saga_steps where instance = $1 and step = 'timer/reminder'";
        owner.query_one(sql, &[&order]).await.expect("counts").get::<_, i64>(0) == 1
    })
    .await;
}

/// The hour is over.
async fn move_clock(owner: &tokio_postgres::Client) {
    let sql = "update saga_steps set next_attempt_at = next_attempt_at - interval '1 hour'";
    owner.execute(sql, &[]).await.expect("updates");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timer_fires_once_whatever_is_repeated() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let owner = database.connect("postgres").await;
    let engine = Engine::start(&database, &server, waiting(Duration::from_hours(1))).await;
    let tenant = open_tenant(&engine.store, "acme").await;
    let order = place_order(&tenant).await;
    // The state is what the reactions before have made of it, in one batch as well.
    append(&tenant, order, &["test.order.placed.v1", "test.order.placed.v1"]).await;
    let stream = instance_stream(NAME, order);
    wait_until("three reactions", || async { types(&tenant, &stream).await.len() == 3 }).await;
    set(&owner, order).await;
    move_clock(&owner).await;
    settled(&database, &tenant, NAME).await;
    assert_eq!(reminded(&engine, &tenant, order).await.as_deref(), Some("Reminded of 3"));
    let told = types(&tenant, &stream).await;
    assert_eq!(told, [REACTED, REACTED, REACTED, FIRED, REACTED, COMPLETED]);
    engine.stop().await;

    // Everything is delivered once more, and nothing is done again. What is new fires in its own time.
    owner.execute("delete from checkpoints", &[]).await.expect("the saga forgets how far it was");
    let engine = Engine::start(&database, &server, waiting(Duration::from_millis(50))).await;
    let another = place_order(&tenant).await;
    settled(&database, &tenant, NAME).await;
    assert_eq!(types(&tenant, &stream).await, told);
    let told = types(&tenant, &instance_stream(NAME, another)).await;
    assert_eq!(told, [REACTED, FIRED, REACTED, COMPLETED]);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timer_outlives_the_process_that_set_it() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let engine = Engine::start(&database, &server, waiting(Duration::from_hours(1))).await;
    let tenant = open_tenant(&engine.store, "acme").await;
    let order = place_order(&tenant).await;
    let owner = database.connect("postgres").await;
    set(&owner, order).await;
    engine.abort().await;
    assert_eq!(types(&tenant, &instance_stream(NAME, order)).await, [REACTED]);
    move_clock(&owner).await;

    let engines = [
        Engine::start(&database, &server, waiting(Duration::from_hours(1))).await,
        Engine::start(&database, &server, waiting(Duration::from_hours(1))).await,
    ];
    settled(&database, &tenant, NAME).await;
    assert_eq!(
        types(&tenant, &instance_stream(NAME, order)).await,
        [REACTED, FIRED, REACTED, COMPLETED],
        "of two processes one fires it"
    );
    assert_eq!(reminded(&engines[0], &tenant, order).await.as_deref(), Some("Reminded of 1"));
    for engine in engines {
        engine.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_timer_never_fires() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let engine = Engine::start(&database, &server, waiting(Duration::from_hours(1))).await;
    let tenant = open_tenant(&engine.store, "acme").await;
    let owner = database.connect("postgres").await;
    let rows = async || {
        let row = owner.query_one("select count(*) from saga_steps", &[]).await.expect("counts");
        row.get::<_, i64>(0)
    };
    let order = place_order(&tenant).await;
    set(&owner, order).await;
    append(&tenant, order, &["test.order.paid.v1"]).await;
    settled(&database, &tenant, NAME).await;
    assert_eq!(rows().await, 0);
    // Both at once.
    engine.stop().await;
    let another = place_order(&tenant).await;
    append(&tenant, another, &["test.order.paid.v1"]).await;
    let engine = Engine::start(&database, &server, waiting(Duration::from_hours(1))).await;
    settled(&database, &tenant, NAME).await;
    for order in [order, another] {
        assert_eq!(types(&tenant, &instance_stream(NAME, order)).await, [REACTED, REACTED]);
        assert_eq!(reminded(&engine, &tenant, order).await, None);
    }
    assert_eq!(rows().await, 0);
    engine.stop().await;
}

/// Whoever looks for due tenants sees those of other processes as well, and they may have waited longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timer_fires_behind_thousands_of_due_tenants_that_are_others_work() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let owner = database.connect("postgres").await;
    let engine = Engine::start(&database, &server, waiting(Duration::from_hours(1))).await;
    // Another process that is there for ever and does nothing.
    let other = "insert into workers (role, worker_id, seen_at)
                 values ('sagas', gen_random_uuid(), clock_timestamp() + interval '1 hour')";
    owner.batch_execute(other).await.expect("inserts");
    let assignment = engine.store.tenant_assignment(Workload::Sagas);
    let member = assignment.clone();
    let _keeping = AbortOnDropHandle::new(tokio::spawn(async move {
        member.maintain_membership(CancellationToken::new()).await;
    }));
    let mut tenants: Vec<TenantId> = (0..6_000).map(|_| TenantId(ids::random_id())).collect();
    wait_until("the work is shared", || async {
        tenants.iter().any(|tenant| assignment.owns(*tenant))
            && tenants.iter().any(|tenant| !assignment.owns(*tenant))
    })
    .await;
    tenants.retain(|tenant| !assignment.owns(*tenant));
    assert!(tenants.len() > 2_000, "{} are others'", tenants.len());
    let mut tenant = open_tenant(&engine.store, "acme-0").await;
    for n in 1.. {
        if assignment.owns(tenant.id()) {
            break;
        }
        tenant = open_tenant(&engine.store, &format!("acme-{n}")).await;
    }
    let order = place_order(&tenant).await;
    set(&owner, order).await;
    let due = "insert into saga_steps (tenant_id, saga, instance, step, trigger_event, correlation_id, command, attempts,
                                       next_attempt_at, status, history)
               select id, 'payment', id, 'others', id, id, '', 0, now() - interval '1 day', 'pending', '[]'
               from unnest($1::uuid[]) as id";
    let others: Vec<Uuid> = tenants.iter().map(|tenant| tenant.0).collect();
    owner.execute(due, &[&others]).await.expect("inserts");
    move_clock(&owner).await;
    settled(&database, &tenant, NAME).await;
    assert_eq!(reminded(&engine, &tenant, order).await.as_deref(), Some("Reminded of 1"));
    engine.stop().await;
}
