//! Sagas that are killed at each of their messages to PostgreSQL and go on in another process: the streams of their
//! instances say what they say of a run that nobody disturbs, and every step took effect once.

use std::sync::Arc;
use std::time::Duration;

use commands::{AnyCommand, Executor};
use futures::{Stream, TryStreamExt};
use sagas::engine::process::target_id;
use sagas::{Process, Reaction, Trigger};
use schemas::crm::customer::{CustomerCommand, CustomerDetails};
use schemas::engine::{DecodeError, Email, Name, RecordedEvent};
use schemas::identity::role::Role;
use store::feed::Batch;
use store::{LogFilter, Store, TenantStore};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::rejected::place_order;
use crate::support::postgres::{Database, open_tenant};
use crate::support::saga_engine::{IMPATIENT, register};
use crate::support::wire::{Moment, Wire};
use crate::support::{eventually, long};

/// The roles that change something, or are asked before something is changed. What `annals_worker` does is to look for
/// tenants with due steps: whoever dies of that dies between two of the others' messages.
const ROLES: [&str; 4] = ["annals_projector", "annals_tenant", "annals_appender", "annals_lookup"];
/// Fewer points than this are no enumeration: something was not counted.
const LEAST: u32 = 4;
const JOURNEY: &str = "journey";

/// Everything that a saga can do, one after the other: a command, a timer, another command, and one that is refused to the
/// last, whereupon both are taken back.
struct Journey;

impl Journey {
    fn register(instance: Uuid, label: &'static str) -> (AnyCommand, AnyCommand) {
        let id = target_id(JOURNEY, instance, label);
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
        (AnyCommand::new(id, &command), undo)
    }
}

impl Process for Journey {
    fn name(&self) -> &'static str {
        JOURNEY
    }

    fn route(&self, event: &RecordedEvent) -> Result<Option<Uuid>, DecodeError> {
        let concerns = ["test.order", "saga.journey"].contains(&event.stream.category());
        Ok(concerns.then(|| event.stream.uuid()).flatten())
    }

    fn react(&self, trigger: Trigger<'_>) -> Result<Option<Reaction>, DecodeError> {
        let Some(instance) = self.route(trigger.event)? else { return Ok(None) };
        let is = |event_type: &str| trigger.event.event_type.as_str() == event_type;
        let completed = is("saga.journey.step_completed.v1");
        let booked = |state: &'static str| {
            let (command, undo) = Self::register(instance, state);
            Reaction::new(instance, state).step_with_compensation(state, command, undo)
        };
        Ok(match trigger.instance.state.as_str() {
            "" if is("test.order.placed.v1") => {
                let reaction = booked("outward").timer("never", Duration::from_hours(1));
                Some(reaction)
            }
            "outward" if completed => {
                let waiting = Reaction::new(instance, "waiting").cancel_timer("never");
                Some(waiting.timer("night", Duration::from_millis(1)))
            }
            "waiting" if trigger.fired_timer(JOURNEY)?.is_some() => Some(booked("onward")),
            "onward" if completed => {
                let id = target_id(JOURNEY, instance, "nobody");
                let command = CustomerCommand::RenameCustomer { name: Name::parse("Nobody").expect("valid") };
                Some(Reaction::new(instance, "home").step("home", AnyCommand::new(id, &command)))
            }
            _ => None,
        })
    }
}

/// What a run starts with, which saga it is for, and what its log must say in the end.
#[derive(Clone, Copy)]
enum Story {
    Onboarding,
    Journey,
}

impl Story {
    fn process(self) -> Arc<dyn Process> {
        match self {
            Self::Onboarding => Arc::new(sagas::customer_onboarding::CustomerOnboarding),
            Self::Journey => Arc::new(Journey),
        }
    }

    async fn begin(self, executor: &Executor, tenant: &TenantStore, n: u32) {
        match self {
            Self::Onboarding => drop(register(executor, tenant.id(), n as usize, &[Role::Member]).await),
            Self::Journey => drop(place_order(tenant).await),
        }
    }

    /// The whole log of a run: what follows from each other follows in this order.
    fn told(self) -> &'static [&'static str] {
        match self {
            Self::Onboarding => &[
                "identity.user.registered.v1",
                "saga.customer_onboarding.reacted.v1 registering_customer",
                "crm.customer.registered.v1",
                "saga.customer_onboarding.step_completed.v1 register_customer",
            ],
            Self::Journey => &[
                "test.order.placed.v1",
                "saga.journey.reacted.v1 outward",
                "crm.customer.registered.v1",
                "saga.journey.step_completed.v1 outward",
                "saga.journey.reacted.v1 waiting",
                "saga.journey.timer_fired.v1 night",
                "saga.journey.reacted.v1 onward",
                "crm.customer.registered.v1",
                "saga.journey.step_completed.v1 onward",
                "saga.journey.reacted.v1 home",
                "saga.journey.compensation_started.v1 home",
                "crm.customer.closed.v1",
                "saga.journey.step_completed.v1 undo/onward",
                "crm.customer.closed.v1",
                "saga.journey.step_completed.v1 undo/outward",
            ],
        }
    }
}

/// An event in words: its type and what it is about.
fn in_words(event: &RecordedEvent) -> String {
    let payload: serde_json::Value = serde_json::from_slice(&event.payload).expect("events are JSON");
    let about = ["step", "timer", "state"].iter().find_map(|name| payload[*name].as_str());
    match about.filter(|_| event.event_type.as_str().starts_with("saga.")) {
        Some(about) => format!("{} {about}", event.event_type),
        None => event.event_type.to_string(),
    }
}

/// What is recorded from now on, as soon as it is: past the wire and without a broker.
fn followed(store: &Store, direct: TenantStore) -> impl Stream<Item = Batch> + Send + 'static {
    let moves = store.head_moves();
    futures::stream::unfold((moves, direct, 0), |(mut moves, direct, after)| async move {
        loop {
            match moves.recv().await {
                Ok(tenant) if tenant != direct.id() => continue,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
            let page = direct.read_log_page(after, None, 1_000, &LogFilter::default()).await.ok()?;
            if !page.events.is_empty() {
                let batch = Batch { tenant: direct.id(), log_id: page.log_id, events: page.events };
                return Some((batch, (moves, direct, page.scanned_to)));
            }
        }
    })
}

struct Scene {
    database: Database,
    owner: tokio_postgres::Client,
    direct: Store,
    tenant: TenantStore,
    story: Story,
}

impl Scene {
    async fn begin(story: Story) -> Self {
        let database = Database::create().await;
        let (owner, direct) = (database.connect("postgres").await, database.store().await);
        let tenant = open_tenant(&direct, "acme").await;
        Self { database, owner, direct, tenant, story }
    }

    /// Starts a process that has PostgreSQL at this port. It may be killed before it is up.
    fn process(&self, port: u16) -> JoinHandle<()> {
        let mut config = self.database.store_config();
        config.port = port;
        let (tenant, process) = (self.tenant.clone(), self.story.process());
        tokio::spawn(async move {
            let Ok(store) = Store::connect(config).await else { return };
            let executor = Executor::new(store.clone(), 1024 * 1024);
            let source = || followed(&store, tenant.clone());
            drop(sagas::run(executor, vec![process], source, IMPATIENT, CancellationToken::new()).await);
        })
    }

    /// Whether the saga has reacted to everything and no step is left; at one instant, because taking a step appends.
    async fn at_rest(&self) -> bool {
        let sql = "select coalesce((select c.position = h.position from checkpoints c, heads h
                                    where c.tenant_id = $1 and h.tenant_id = $1 and c.consumer = $2), false)
                          and not exists (select from saga_steps where tenant_id = $1 and status = 'pending')";
        let consumer = format!("saga.{}", self.story.process().name());
        self.owner.query_one(sql, &[&self.tenant.id().0, &consumer]).await.expect("answers").get(0)
    }

    async fn log_from(&self, position: u64) -> Vec<String> {
        let log = self.tenant.read_log(position, LogFilter::default());
        log.try_collect::<Vec<_>>().await.expect("the log reads").iter().map(in_words).collect()
    }

    /// One run, in a process that is killed at this point and another one. `false` where the first came to its end.
    async fn killed_at(&self, role: &str, point: u32, moment: Moment) -> bool {
        let name = format!("{moment:?} message {point} of {role}");
        let before = self.tenant.head().await.expect("a head").position;
        let executor = Executor::new(self.direct.clone(), 1024 * 1024);
        self.story.begin(&executor, &self.tenant, point).await;
        let wire = Wire::start(self.database.port).await;
        wire.arm_kill(role, point, moment);
        let process = self.process(wire.port());
        eventually(&name, || async { (wire.has_killed() || self.at_rest().await).then_some(()) }).await;
        process.abort();
        drop(process.await);
        let killed = wire.has_killed();
        if killed {
            // The lease of what it had in hand is over.
            let now = "update saga_steps set next_attempt_at = now() where step not like 'timer/%'
                       or next_attempt_at < now() + interval '1 minute'";
            self.owner.execute(now, &[]).await.expect("updates");
            let process = self.process(self.database.port);
            let recovery = format!("recovery from {name}");
            eventually(&recovery, || async { self.at_rest().await.then_some(()) }).await;
            process.abort();
            drop(process.await);
        }
        assert_eq!(self.log_from(before).await, self.story.told(), "{name}");
        let letters = self.direct.dead_letters(None, None, 10).await.expect("reads");
        assert_eq!(letters, [], "{name}: an interruption is no refusal");
        killed
    }
}

async fn killed_at_each_message(story: Story, role: &str, moment: Moment) {
    let scene = Scene::begin(story).await;
    let one_in = match story {
        Story::Onboarding => 16,
        Story::Journey => 70,
    };
    for point in long::points(one_in) {
        if !scene.killed_at(role, point, moment).await {
            assert!(point > LEAST, "{role} sends more than {point} messages");
            return;
        }
    }
}

async fn killed_in(story: Story) {
    let kills = ROLES.into_iter().flat_map(|role| {
        [Moment::Before, Moment::After].map(|moment| killed_at_each_message(story, role, moment))
    });
    futures::future::join_all(kills).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_onboarding_is_killed_at_each_of_its_messages() {
    killed_in(Story::Onboarding).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_timers_and_compensation_are_killed_at_each_of_their_messages() {
    killed_in(Story::Journey).await;
}
