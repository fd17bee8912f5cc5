//! A relay that is interrupted, or killed, at each of its messages to PostgreSQL and NATS, in a batch and in a refill:
//! JetStream holds every event once, and what is noted as relayed is there.

use std::collections::BTreeSet;

use async_nats::jetstream;
use nats::relay::progress::RelayProgress;
use nats::{Nats, NatsConfig};
use schemas::engine::StreamName;
use store::{ExpectedVersion, Store, StreamAppend, TenantStore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::long;
use crate::support::nats_server::NatsServer;
use crate::support::postgres::{Database, event, metadata, open_tenant};
use crate::support::relay::{
    Relay, Seen, append_many, assert_holds_the_log, read_events, relayed, wait_until,
};
use crate::support::wire::{Moment, NATS, NATS_ANSWERS, Wire};

const POSTGRES: &str = "annals_relay";
/// Where a relay is interrupted: in what it says to PostgreSQL and to NATS, and in what NATS answers.
const WHOSE: [&str; 3] = [POSTGRES, NATS, NATS_ANSWERS];
/// Fewer points than this are no enumeration: something was not counted.
const LEAST: u32 = 8;

struct Scene {
    database: Database,
    server: NatsServer,
    /// Past the wire: what the test does and sees.
    direct: Store,
    tenants: [TenantStore; 2],
}

/// A process all of whose connections go by the wire.
struct Process {
    wire: Wire,
    task: JoinHandle<()>,
}

impl Process {
    async fn end(self) {
        self.task.abort();
        // It may have been killed before it was up.
        drop(self.task.await);
    }
}

impl Scene {
    async fn begin() -> Self {
        let (database, server) = (Database::create().await, NatsServer::start().await);
        let direct = database.store().await;
        let tenants = [open_tenant(&direct, "acme").await, open_tenant(&direct, "globex").await];
        Self { database, server, direct, tenants }
    }

    /// Starts a process on a wire to PostgreSQL.
    async fn process(&self, wire: Wire) -> Process {
        let mut config = self.database.store_config();
        config.port = wire.port();
        let url = format!("nats://127.0.0.1:{}", wire.start_nats(self.server.port()).await.port());
        let task = tokio::spawn(async move {
            let Ok(store) = Store::connect(config).await else { return };
            let nats = Nats::connect(NatsConfig {
                url,
                credentials_file: None,
                tls: nats::NatsTls::default(),
                replicas: 1,
                allow_unauthenticated: true,
            })
            .await;
            let Ok(nats) = nats else { return };
            drop(nats::relay::run(store, nats, CancellationToken::new()).await);
        });
        Process { wire, task }
    }

    async fn progress(&self) -> Vec<RelayProgress> {
        nats::relay::progress::all(&self.direct).await.expect("the progress reads")
    }

    /// How many messages have left the stream; `None` while there is no stream.
    async fn removed(&self) -> Option<u64> {
        let client = async_nats::connect(self.server.url()).await.expect("a stock client connects");
        let stream = jetstream::new(client).get_stream("EVENTS").await.ok()?;
        let state = &stream.cached_info().state;
        Some(state.last_sequence - state.messages)
    }

    /// Whether everything is noted as relayed, and nothing is in doubt.
    async fn at_rest(&self) -> bool {
        let (removed, progress) = (self.removed().await, self.progress().await);
        progress.iter().all(|row| row.acked == row.head && (row.acked == 0 || row.removed == removed))
    }

    async fn held(&self) -> Vec<Seen> {
        if self.removed().await.is_none() { Vec::new() } else { read_events(&self.server, "events.>").await }
    }

    /// What is noted as relayed is there, unless it is noted as in doubt.
    async fn assert_not_ahead(&self, point: &str) {
        // Read first: nobody moves either while the relay is dead.
        let (removed, held) = (self.removed().await, self.held().await);
        for row in self.progress().await {
            let there: BTreeSet<u64> = held
                .iter()
                .filter(|message| message.header("ce-logid") == row.log_id.to_string())
                .map(Seen::position)
                .collect();
            let is_complete = (1..=row.acked).all(|position| there.contains(&position));
            let in_doubt = row.removed.is_none() || row.removed != removed;
            assert!(is_complete || in_doubt, "{point}: {row:?} is noted, and only {there:?} are there");
        }
    }

    async fn assert_complete(&self) {
        let held = self.held().await;
        for tenant in &self.tenants {
            assert_holds_the_log(&held, tenant).await;
        }
    }

    /// Runs a process that is killed at this point, and then another one. `false` where the first came to rest before.
    async fn killed_at(&self, whose: &str, point: u32, moment: Moment) -> bool {
        let name = format!("{moment:?} message {point} of {whose}");
        let wire = Wire::start(self.database.port).await;
        wire.arm_kill(whose, point, moment);
        let process = self.process(wire).await;
        wait_until(&name, || async { process.wire.has_killed() || self.at_rest().await }).await;
        let killed = process.wire.has_killed();
        process.end().await;
        if killed {
            self.assert_not_ahead(&name).await;
        }
        let relay = Relay::start(&self.direct, &self.server).await;
        wait_until(&format!("recovery from {name}"), || self.at_rest()).await;
        relay.abort().await;
        killed
    }
}

/// Appends events of two types, each with a subject of its own, in turn.
async fn append_mixed(tenant: &TenantStore, count: usize) {
    for n in 0..count {
        let event_type = if n % 2 == 0 { "test.thing.happened.v1" } else { "test.other.happened.v1" };
        let stream = StreamName::new("test.thing", Uuid::from_u128(1));
        let events = vec![event(event_type, &format!("{{\"n\":{n}}}"))];
        let append = StreamAppend::new(stream, ExpectedVersion::Any, events, metadata());
        tenant.append(append).await.expect("the append succeeds");
    }
}

/// A process is born, relays a batch of two tenants, and is killed at every message of all that.
async fn killed_in_a_batch(whose: &str, moment: Moment) {
    let scene = Scene::begin().await;
    for point in long::points(10) {
        append_many(&scene.tenants[0], 5).await;
        append_many(&scene.tenants[1], 3).await;
        let killed = scene.killed_at(whose, point, moment).await;
        scene.assert_complete().await;
        if !killed {
            assert!(point > LEAST, "{whose} sends more than {point} messages");
            return;
        }
    }
}

/// The same while it refills what was removed from the middle of a log, and publishes what is new. Each time in another
/// world: what a relay has to compare grows with what was there before.
async fn killed_in_a_refill(whose: &str, moment: Moment) {
    for point in long::points(24) {
        let scene = Scene::begin().await;
        append_mixed(&scene.tenants[0], 9).await;
        let relay = Relay::start(&scene.direct, &scene.server).await;
        wait_until("the stream is complete", || scene.at_rest()).await;
        relay.abort().await;
        let client = async_nats::connect(scene.server.url()).await.expect("a stock client connects");
        let stream = jetstream::new(client).get_stream("EVENTS").await.expect("the stream is there");
        stream.purge().filter("events.acme.test.other.>").await.expect("purged");
        append_many(&scene.tenants[0], 2).await;
        let killed = scene.killed_at(whose, point, moment).await;
        assert_refilled(&scene).await;
        if !killed {
            assert!(point > LEAST, "{whose} sends more than {point} messages");
            return;
        }
    }
}

/// Each position is there once, though what was refilled stands behind what was not, and each says what the log says.
async fn assert_refilled(scene: &Scene) {
    let mut held = scene.held().await;
    held.sort_by_key(Seen::position);
    assert_holds_the_log(&held, &scene.tenants[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_is_killed_at_each_message_of_a_batch() {
    let kills = WHOSE
        .into_iter()
        .flat_map(|whose| [Moment::Before, Moment::After].map(|moment| killed_in_a_batch(whose, moment)));
    futures::future::join_all(kills).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_is_killed_at_each_message_of_a_refill() {
    let kills = WHOSE
        .into_iter()
        .flat_map(|whose| [Moment::Before, Moment::After].map(|moment| killed_in_a_refill(whose, moment)));
    futures::future::join_all(kills).await;
}

/// One connection breaks, and the relay goes on by itself.
async fn interrupted_in_a_batch(whose: &str, moment: Moment) {
    let scene = Scene::begin().await;
    let process = scene.process(Wire::start(scene.database.port).await).await;
    relayed(&scene.direct).await;
    for point in long::points(6) {
        process.wire.arm(whose, point, moment);
        append_many(&scene.tenants[0], 5).await;
        append_many(&scene.tenants[1], 3).await;
        relayed(&scene.direct).await;
        let was_cut = process.wire.disarm();
        scene.assert_complete().await;
        if !was_cut {
            assert!(point > LEAST, "{whose} sends more than {point} messages");
            break;
        }
    }
    process.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_interrupted_at_each_message_of_the_relay() {
    let cuts = WHOSE.into_iter().flat_map(|whose| {
        [Moment::Before, Moment::After].map(|moment| interrupted_in_a_batch(whose, moment))
    });
    futures::future::join_all(cuts).await;
}
