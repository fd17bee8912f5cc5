//! JetStream loses something while events trickle in: the relay notices and publishes again what is missing, and whoever
//! follows stays complete.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream::Stream};
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use schemas::engine::StreamName;
use store::feed::{self, FeedSettings};
use store::{ExpectedVersion, Store, StreamAppend, TenantStore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::stream_consumer::{Recorder, follower};
use crate::support::nats_server::NatsServer;
use crate::support::postgres::{Database, event, metadata, open_tenant};
use crate::support::relay::{DEADLINE, Relay, Seen, append_many, read_log, relayed, wait_until};

/// Two tenants with some history, relayed; `acme` goes on appending, and somebody follows it.
struct Scene {
    server: NatsServer,
    store: Store,
    acme: TenantStore,
    globex: TenantStore,
    relay: Relay,
    recorder: Arc<Recorder>,
    cancel: CancellationToken,
    trickle: AbortOnDropHandle<()>,
    dry: CancellationToken,
    _feeding: AbortOnDropHandle<()>,
    _database: Database,
}

impl Scene {
    async fn begin() -> Self {
        let (database, server) = (Database::create().await, NatsServer::start().await);
        let store = database.store().await;
        let (acme, globex) = (open_tenant(&store, "acme").await, open_tenant(&store, "globex").await);
        let cancel = CancellationToken::new();
        let follower = follower(&store, &server, &cancel).await;
        let recorder = Arc::new(Recorder { handled: Mutex::default(), tenant: acme.clone() });
        let feeding = tokio::spawn(feed::run(
            store.clone(),
            Arc::clone(&recorder),
            follower.batches(),
            FeedSettings::default(),
            cancel.clone(),
        ));
        let relay = Relay::start(&store, &server).await;
        append_many(&acme, 300).await;
        append_many(&globex, 300).await;
        append_other(&acme, 10).await;
        relayed(&store).await;
        let (trickling, dry) = (acme.clone(), CancellationToken::new());
        let stop = dry.clone();
        let trickle = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(25));
            while !stop.is_cancelled() {
                ticks.tick().await;
                append_many(&trickling, 1).await;
            }
        });
        let (trickle, feeding) = (AbortOnDropHandle::new(trickle), AbortOnDropHandle::new(feeding));
        Self {
            server,
            store,
            acme,
            globex,
            relay,
            recorder,
            cancel,
            trickle,
            dry,
            _feeding: feeding,
            _database: database,
        }
    }

    async fn stream(&self) -> Stream {
        stream(&self.server).await.expect("the stream exists")
    }

    /// Waits until nothing is missing any more, then that it stays so; returns how often each position of each tenant
    /// is there.
    async fn end(self, what: &str) -> HashMap<String, BTreeMap<u64, usize>> {
        let lost = Instant::now();
        let heads = [
            ("acme", self.acme.head().await.expect("a head").position),
            ("globex", self.globex.head().await.expect("a head").position),
        ];
        wait_until("the stream is complete while events come in", || async {
            let Some(seen) = read(&self.server).await else { return false };
            heads.iter().all(|(slug, head)| {
                let held = positions(&seen, slug);
                (1..=*head).all(|position| held.contains_key(&position))
            })
        })
        .await;
        println!("{what}: complete again after {} ms", lost.elapsed().as_millis());
        self.dry.cancel();
        self.trickle.await.expect("the trickle ends");
        wait_until("the relay has come to rest and doubts nothing", || async {
            let Some(stream) = stream(&self.server).await else { return false };
            let state = &stream.cached_info().state;
            let removed = state.last_sequence - state.messages;
            let progress = nats::relay::progress::all(&self.store).await.unwrap_or_default();
            progress
                .iter()
                .all(|row| row.acked == row.head && (row.acked == 0 || row.removed == Some(removed)))
        })
        .await;
        let seen = read(&self.server).await.expect("the stream reads");
        let mut held = HashMap::new();
        for tenant in [&self.acme, &self.globex] {
            let log = read_log(tenant).await;
            let slug = if tenant.id() == self.acme.id() { "acme" } else { "globex" };
            let there = positions(&seen, slug);
            assert_eq!(
                there.keys().copied().collect::<Vec<_>>(),
                (1..=log.len() as u64).collect::<Vec<_>>(),
                "{slug} is complete"
            );
            for message in seen.iter().filter(|message| message.header("ce-tenantid") == slug) {
                let event = &log[message.position() as usize - 1];
                assert_eq!(message.header("ce-id"), event.event_id.to_string());
                assert_eq!(message.payload, event.payload);
            }
            held.insert(slug.to_owned(), there);
        }
        let head = self.acme.head().await.expect("a head");
        let reached =
            self.acme.wait_for_checkpoint("test.recorder", head.log_id, head.position, DEADLINE).await;
        assert!(reached.expect("the checkpoint reads"), "the follower reaches the head");
        let handled = self.recorder.handled.lock().expect("not poisoned").clone();
        assert_eq!(handled, (1..=head.position).collect::<Vec<_>>(), "the follower saw each event once");
        self.relay.stop().await;
        self.cancel.cancel();
        held
    }
}

/// Events of another type, which has a subject of its own.
async fn append_other(tenant: &TenantStore, count: usize) {
    for n in 0..count {
        let other = event("test.other.happened.v1", &format!("{{\"n\":{n}}}"));
        let stream = StreamName::new("test.other", Uuid::from_u128(1));
        let append = StreamAppend::new(stream, ExpectedVersion::Any, vec![other], metadata());
        tenant.append(append).await.expect("the append succeeds");
    }
}

async fn stream(server: &NatsServer) -> Option<Stream> {
    let client = async_nats::connect(server.url()).await.ok()?;
    jetstream::new(client).get_stream("EVENTS").await.ok()
}

/// Everything on the stream; `None` while it cannot be read.
fn read(server: &NatsServer) -> BoxFuture<'_, Option<Vec<Seen>>> {
    async move {
        let stream = stream(server).await?;
        let config = jetstream::consumer::pull::Config {
            ack_policy: jetstream::consumer::AckPolicy::None,
            memory_storage: true,
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await.ok()?;
        let pending = consumer.cached_info().num_pending as usize;
        let mut seen = Some(Vec::new());
        if pending > 0 {
            let messages = consumer.fetch().max_messages(pending).messages().await.ok()?;
            let messages = messages.map_ok(|message| Seen {
                subject: message.subject.to_string(),
                headers: message.headers.clone().unwrap_or_default(),
                payload: message.payload.to_vec(),
            });
            seen = messages.try_collect().await.ok();
        }
        stream.delete_consumer(&consumer.cached_info().name).await.ok()?;
        seen
    }
    .boxed()
}

/// How often each position of a tenant is there.
fn positions(seen: &[Seen], slug: &str) -> BTreeMap<u64, usize> {
    let mut positions = BTreeMap::new();
    for message in seen.iter().filter(|message| message.header("ce-tenantid") == slug) {
        *positions.entry(message.position()).or_default() += 1;
    }
    positions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purged_stream_is_refilled() {
    let scene = Scene::begin().await;
    scene.stream().await.purge().await.expect("purged");
    scene.end("purge").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_stream_is_made_and_filled_again() {
    let scene = Scene::begin().await;
    let client = async_nats::connect(scene.server.url()).await.expect("connects");
    jetstream::new(client).delete_stream("EVENTS").await.expect("deleted");
    scene.end("stream deleted").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_data_folder_is_filled_again() {
    let mut scene = Scene::begin().await;
    scene.server.kill();
    scene.server.wipe();
    scene.server.restart().await;
    scene.end("data folder wiped").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purged_subject_is_refilled_and_nothing_else() {
    let scene = Scene::begin().await;
    let filter = "events.acme.test.other.>";
    scene.stream().await.purge().filter(filter).await.expect("purged");
    let held = scene.end("subject purged").await;
    assert!(held["acme"].range(..=310).all(|(_, count)| *count == 1), "what was there is not stored again");
    assert!(held["globex"].values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_message_is_refilled_and_nothing_else() {
    let scene = Scene::begin().await;
    let seen = read(&scene.server).await.expect("the stream reads");
    // Nothing was removed before, so places count from 1.
    let place = seen.iter().position(|message| message.header("ce-tenantid") == "globex").expect("there");
    let sequence = place as u64 + 1;
    scene.stream().await.delete_message(sequence).await.expect("deleted");
    let held = scene.end("message deleted").await;
    assert!(held["globex"].values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_went_back_to_a_backup_is_refilled() {
    let mut scene = Scene::begin().await;
    scene.server.kill();
    let backup = scene.server.back_up();
    scene.server.restart().await;
    append_many(&scene.globex, 200).await;
    append_many(&scene.acme, 200).await;
    wait_until("the younger events are on the stream", || async {
        let progress = nats::relay::progress::all(&scene.store).await.unwrap_or_default();
        progress.iter().any(|row| row.tenant == scene.globex.id() && row.acked == 500)
    })
    .await;
    scene.server.kill();
    scene.server.restore(&backup);
    scene.server.restart().await;
    let held = scene.end("old backup").await;
    assert!(held["globex"].values().all(|count| *count == 1), "exactly what was missing came again");
}

/// A repeat within the duplicate window is acknowledged although its message is gone: the relay does not believe it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_repeat_of_a_lost_message_is_not_taken_for_stored() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let store = database.store().await;
    let acme = open_tenant(&store, "acme").await;
    append_many(&acme, 20).await;
    let relay = Relay::start(&store, &server).await;
    relayed(&store).await;
    relay.stop().await;
    // As though the relay had died before it stored how far it was, and the stream been purged then.
    let admin = database.connect("postgres").await;
    admin.batch_execute("delete from relay_progress").await.expect("deleted");
    stream(&server).await.expect("the stream").purge().await.expect("purged");
    let relay = Relay::start(&store, &server).await;
    wait_until("everything is on the stream again", || async {
        read(&server).await.is_some_and(|seen| positions(&seen, "acme").len() == 20)
    })
    .await;
    relayed(&store).await;
    relay.stop().await;
}
