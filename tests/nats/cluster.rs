//! A cluster of three nats-servers that keep the stream together: servers die, one loses its data, then all do. Requests
//! go on, and whoever follows the stream gets every event.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use nats::{Nats, NatsConfig, NatsError};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use crate::support::deployment::{Account, Answer, Deployment, Process};
use crate::support::eventually;
use crate::support::long;
use crate::support::nats_cluster::{ANSWER, NODES, NatsCluster};
use crate::support::nats_server::NatsServer;
use crate::support::postgres_server::PostgresServer;
use crate::support::product::PASSWORD;
use crate::support::relay::wait_until;

/// What a stock client has seen: every content of each position.
#[derive(Default)]
struct Seen {
    ids: Mutex<BTreeMap<u64, Vec<String>>>,
}

impl Seen {
    fn note(&self, message: &jetstream::Message) {
        let headers = message.headers.as_ref().expect("every message has headers");
        let header = |name: &str| headers.get(name).map_or("", |value| value.as_str()).to_owned();
        if header("ce-tenantid") == "acme" {
            let position = header("ce-position").parse().expect("a position is a number");
            let mut seen = self.ids.lock().expect("not poisoned");
            seen.entry(position).or_default().push(header("ce-id"));
        }
    }

    fn has_all(&self, head: u64) -> bool {
        let seen = self.ids.lock().expect("not poisoned");
        (1..=head).all(|position| seen.contains_key(&position))
    }
}

/// Follows with a durable consumer that three servers keep, and makes it anew where the cluster has lost it.
async fn follow(urls: Vec<String>, seen: Arc<Seen>) {
    let client = async_nats::ConnectOptions::new()
        .retry_on_initial_connect()
        .max_reconnects(None)
        .connect(urls)
        .await
        .expect("the addresses are valid");
    // Without a leader nobody answers; the next attempt may find one.
    let context = jetstream::context::ContextBuilder::new().timeout(ANSWER).build(client);
    let mut attempts = tokio::time::interval(Duration::from_millis(100));
    loop {
        attempts.tick().await;
        let Ok(stream) = context.get_stream("EVENTS").await else { continue };
        let config = consumer::pull::Config {
            durable_name: Some("integrator".to_owned()),
            ack_policy: consumer::AckPolicy::Explicit,
            num_replicas: NODES,
            ..Default::default()
        };
        let Ok(consumer) = stream.get_or_create_consumer("integrator", config).await else { continue };
        let messages = consumer.stream().heartbeat(Duration::from_millis(500)).messages().await;
        let Ok(mut messages) = messages else { continue };
        while let Some(Ok(message)) = messages.next().await {
            seen.note(&message);
            // Where this does not arrive the message comes again.
            drop(message.ack().await);
        }
    }
}

/// What clients have been told while servers died.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    registered: AtomicU64,
    longest: Mutex<Duration>,
}

/// Registers one user after the other; each must be answered as though nothing had happened.
async fn register(load: Arc<Load>, client: reqwest::Client, url: String) {
    let mut tempo = tokio::time::interval(Duration::from_millis(40));
    tempo.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !load.stop.load(Ordering::Relaxed) {
        tempo.tick().await;
        let number = load.registered.load(Ordering::Relaxed);
        let body = json!({"email": format!("u{number}@acme.example"), "password": PASSWORD, "name": "U"});
        let answer = Answer::of(client.post(&url).header("X-Tenant-ID", "acme").json(&body)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        load.registered.fetch_add(1, Ordering::Relaxed);
        let mut longest = load.longest.lock().expect("not poisoned");
        *longest = answer.took.max(*longest);
    }
}

/// The whole log over REST.
async fn log(process: &Process, tenant: &Account) -> Vec<Value> {
    let mut events: Vec<Value> = Vec::new();
    loop {
        let path = format!("/v1/events?after={}&limit=1000", events.len());
        let mut answer = Answer::of(process.request(Method::GET, &path).bearer_auth(&tenant.token)).await;
        let Value::Array(more) = answer.body["events"].take() else { panic!("no events: {answer:?}") };
        events.extend(more);
        if answer.body["next_after"] == answer.body["head"] {
            return events;
        }
    }
}

/// Everything that the stream holds of the tenant: the contents of each position.
fn held(cluster: &NatsCluster) -> BoxFuture<'_, Option<BTreeMap<u64, Vec<String>>>> {
    async move {
        let stream = cluster.jetstream().await?.get_stream("EVENTS").await.ok()?;
        let config = consumer::pull::Config { ack_policy: consumer::AckPolicy::None, ..Default::default() };
        let consumer = stream.create_consumer(config).await.ok()?;
        let pending = consumer.cached_info().num_pending as usize;
        let expires = Duration::from_secs(2);
        let mut messages = consumer.fetch().max_messages(pending).expires(expires).messages().await.ok()?;
        let seen = Seen::default();
        while let Some(message) = messages.next().await {
            seen.note(&message.ok()?);
        }
        Some(seen.ids.into_inner().expect("not poisoned"))
    }
    .boxed()
}

struct Scene {
    cluster: NatsCluster,
    process: Process,
    tenant: Account,
    load: Arc<Load>,
    seen: Arc<Seen>,
    registering: AbortOnDropHandle<()>,
    _following: AbortOnDropHandle<()>,
    _deployment: Deployment,
    _postgres: PostgresServer,
}

impl Scene {
    async fn begin() -> Self {
        let (postgres, cluster) = tokio::join!(PostgresServer::start(&[]), NatsCluster::start());
        // Somebody who was there before sees its number changed and does not take that back.
        let before = connect(cluster.url(), 1).await.expect("NATS can be used");
        assert_eq!(before.event_stream().await.expect("it stands").config.num_replicas, 1);
        let deployment =
            Deployment::with(postgres.port(), &cluster.url(), "replicas = 3\nallow_unauthenticated = true\n");
        let process = deployment.serve("gateway,relay,projections,sagas");
        process.started().await;
        let tenant = deployment.tenant(&process, "acme").await;
        wait_until("three servers keep the stream", || async {
            before.event_stream().await.is_ok_and(|stream| stream.config.num_replicas == NODES)
        })
        .await;
        cluster.in_step().await;
        let (load, seen) = (Arc::new(Load::default()), Arc::new(Seen::default()));
        let following = AbortOnDropHandle::new(tokio::spawn(follow(cluster.urls(), Arc::clone(&seen))));
        let url = process.url("/v1/auth/register");
        let registering = tokio::spawn(register(Arc::clone(&load), reqwest::Client::new(), url));
        let scene = Self {
            cluster,
            process,
            tenant,
            load,
            seen,
            registering: AbortOnDropHandle::new(registering),
            _following: following,
            _deployment: deployment,
            _postgres: postgres,
        };
        scene.goes_on("the follower is there").await;
        scene
    }

    /// Waits until whatever was registered since is on the stream, seen by who follows.
    async fn goes_on(&self, what: &str) {
        let begun = Instant::now();
        let before = self.load.registered.load(Ordering::Relaxed);
        wait_until("users are registered", || async {
            self.load.registered.load(Ordering::Relaxed) > before + 2
        })
        .await;
        let head = log(&self.process, &self.tenant).await.len() as u64;
        wait_until(what, || async { self.seen.has_all(head) }).await;
        println!("{what}: {} ms", begun.elapsed().as_millis());
    }

    /// Waits until everything has come to rest: whoever followed has seen each event, the stream holds it, and neither
    /// another content at any position.
    async fn end(self) {
        self.load.stop.store(true, Ordering::Relaxed);
        self.registering.await.expect("every request was answered");
        let (registered, longest) =
            (&self.load.registered, self.load.longest.lock().expect("not poisoned").as_millis());
        println!("{registered:?} registrations, the longest took {longest} ms");
        wait_until("the sagas have come to rest, and everything is followed", || async {
            let log = log(&self.process, &self.tenant).await;
            let count = |event_type: &str| log.iter().filter(|event| event["type"] == event_type).count();
            // One of the users is the administrator.
            count("identity.user.registered.v1") == count("saga.customer_onboarding.step_completed.v1") + 1
                && self.seen.has_all(log.len() as u64)
        })
        .await;
        let log = log(&self.process, &self.tenant).await;
        let id = |position: u64| log[position as usize - 1]["id"].as_str().expect("an id");
        wait_until("the stream holds everything", || async {
            held(&self.cluster).await.is_some_and(|held| held.len() == log.len())
        })
        .await;
        let followed = self.seen.ids.lock().expect("not poisoned").clone();
        let held = eventually("the stream reads", || held(&self.cluster)).await;
        for (position, seen) in held.iter().chain(&followed) {
            let same = seen.iter().all(|seen| seen == id(*position));
            assert!(same, "another content at {position}: {seen:?}");
        }
        let stream = self.cluster.stream().await.expect("it is there");
        assert_eq!(stream.config.num_replicas, NODES);
    }
}

async fn connect(url: String, replicas: usize) -> Result<Nats, NatsError> {
    Nats::connect(NatsConfig {
        url,
        credentials_file: None,
        tls: nats::NatsTls::default(),
        replicas,
        allow_unauthenticated: true,
    })
    .await
}

/// Elections take most of the time, so both stories are told at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_a_cluster_die_or_lose_their_data_and_followers_get_every_event() {
    tokio::join!(servers_die(), data_are_lost());
}

async fn servers_die() {
    let mut scene = Scene::begin().await;
    let leader = scene.cluster.leader().await;
    scene.cluster.kill(leader);
    scene.goes_on("another server leads").await;
    scene.cluster.restart(leader);
    scene.cluster.in_step().await;
    // The long form takes whoever leads by now, for another election.
    let next = scene.cluster.leader().await;
    let another = if long::is_wanted() { next } else { NODES - leader - next };
    scene.cluster.kill(another);
    scene.goes_on("two of three are enough").await;
    let stream = scene.cluster.stream().await.expect("it is there").state;
    assert_eq!(stream.messages, stream.last_sequence, "nothing was lost");
    scene.cluster.restart(another);
    scene.end().await;
}

/// A server without its data is filled by the others, and all of them from the log.
async fn data_are_lost() {
    let mut scene = Scene::begin().await;
    let leader = scene.cluster.leader().await;
    let wiped = if long::is_wanted() { leader } else { (leader + 1) % NODES };
    scene.cluster.kill(wiped);
    scene.cluster.wipe(wiped);
    scene.cluster.restart(wiped);
    scene.goes_on("a server has lost its data").await;
    scene.cluster.in_step().await;
    let stream = scene.cluster.stream().await.expect("it is there").state;
    assert_eq!(stream.messages, stream.last_sequence, "the cluster has lost nothing");

    for node in 0..NODES {
        scene.cluster.kill(node);
        scene.cluster.wipe(node);
    }
    for node in 0..NODES {
        scene.cluster.restart(node);
    }
    scene.goes_on("all have lost their data").await;
    scene.end().await;
}

#[tokio::test]
async fn replicas_without_a_cluster_are_refused() {
    let server = NatsServer::start().await;
    let refused = async || connect(server.url(), 3).await.expect_err("it stands alone");
    assert!(matches!(refused().await, NatsError::NoCluster { replicas: 3 }));
    assert!(!refused().await.is_unavailable(), "nobody waits for that");
    connect(server.url(), 1).await.expect("NATS can be used");
    assert!(matches!(refused().await, NatsError::NoCluster { replicas: 3 }));
    let stream = connect(server.url(), 1).await.expect("NATS can be used").event_stream().await;
    assert_eq!(stream.expect("it stands").config.num_replicas, 1, "a server that stands alone would take 3");
}
