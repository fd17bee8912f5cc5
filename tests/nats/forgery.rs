//! A client that may publish on the product's subjects forges events: followers, read models, the search for lost events and
//! for lost erasures go by the log.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_nats::HeaderMap;
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use nats::message::{EventMessage, MessageKey, encode};
use schemas::engine::{EventType, RecordedEvent, StreamName, TenantSlug, ids};
use serde_json::{Value, json};
use store::feed::{self, Batch, BatchOutcome, Consumer, FeedSettings};
use store::{DeploymentKey, StoreError, TenantStore};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::stream_consumer::follower;
use crate::support::Product;
use crate::support::nats_server::NatsServer;
use crate::support::postgres::{Database, open_tenant};
use crate::support::relay::{
    DEADLINE, Relay, append_many, connect, read_events, read_log, relayed, wait_until,
};

fn slug() -> TenantSlug {
    TenantSlug::parse("acme").expect("a slug")
}

/// Publishes what it likes.
struct Forger {
    context: Context,
    port: u16,
}

impl Forger {
    async fn at(server: &NatsServer) -> Self {
        let client = async_nats::connect(server.url()).await.expect("a stock client connects");
        Self { context: jetstream::new(client), port: server.port() }
    }

    /// Waits until the message is on the stream. Returns its place, and whether another one has its id.
    async fn publish(&self, message: EventMessage) -> (u64, bool) {
        let EventMessage { subject, headers, payload } = message;
        let ack = self.context.publish_with_headers(subject, headers, payload).await.expect("sent");
        let ack = ack.await.expect("stored");
        (ack.sequence, ack.duplicate)
    }

    /// Publishes a message whose headers are what no client sends, and waits until it is on the stream.
    async fn publish_raw(&self, subject: &str, headers: &str) {
        let before = self.last_sequence().await;
        let mut socket =
            BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).await.expect("connects"));
        let length = headers.len();
        let sent = format!(
            "CONNECT {{\"verbose\":false,\"headers\":true}}\r\n\
             HPUB {subject} {length} {}\r\n{headers}{{}}\r\nPING\r\n",
            length + 2
        );
        socket.write_all(sent.as_bytes()).await.expect("sent");
        let mut line = String::new();
        while !line.starts_with("PONG") {
            assert!(!line.starts_with("-ERR"), "{line}");
            line.clear();
            assert_ne!(socket.read_line(&mut line).await.expect("the server answers"), 0, "closed");
        }
        wait_until("it is on the stream", || async { self.last_sequence().await > before }).await;
    }

    async fn last_sequence(&self) -> u64 {
        self.context.get_stream("EVENTS").await.expect("it is there").cached_info().state.last_sequence
    }
}

/// Headers that a client does not read, or takes for the server's word.
const UNREADABLE: [&str; 6] = [
    "NATS/1.0\r\nno colon\r\n\r\n",
    "NATS/1.0\r\na b: 1\r\n\r\n",
    "NATS/1.0 409 Consumer Deleted\r\n\r\n",
    "NATS/1.0 100 Idle Heartbeat\r\n\r\n",
    "NATS/1.0 999999\r\n\r\n",
    "NATS/1.0 503\r\n\r\n",
];

fn with_header(mut message: EventMessage, name: &str, value: &str) -> EventMessage {
    message.headers.insert(name, value);
    message
}

/// What a forger can make of an event: of `real`, which it has read, and of `wanted`, which it would like to be believed.
fn forgeries(real: &EventMessage, wanted: &RecordedEvent) -> Vec<EventMessage> {
    let other_key = MessageKey::of(&DeploymentKey::generate());
    let of_other_key = encode(&other_key, &slug(), wanted, 0);
    let mut without_mac = HeaderMap::new();
    for (name, values) in of_other_key.headers.iter().filter(|(name, _)| name.to_string() != "annals-mac") {
        without_mac.insert(name.clone(), values[0].clone());
    }
    let mut with_mac_of_real = without_mac.clone();
    with_mac_of_real.insert("annals-mac", real.headers.get("annals-mac").expect("it has one").as_str());
    let unsigned = |headers| EventMessage { headers, ..of_other_key.clone() };
    let position = wanted.position.to_string();
    let mut forged = vec![
        unsigned(HeaderMap::new()),
        unsigned(without_mac),
        unsigned(with_mac_of_real),
        with_header(
            of_other_key.clone(),
            "annals-mac",
            "v1.00000000.AAAAAAAAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAA",
        ),
        of_other_key.clone(),
        with_header(real.clone(), "ce-position", &position),
        with_header(real.clone(), "ce-logid", &ids::random_id().to_string()),
        with_header(real.clone(), "ce-tenantid", "globex"),
        with_header(real.clone(), "ce-causationid", &ids::new_id().to_string()),
        EventMessage { subject: real.subject.replace("acme", "globex"), ..real.clone() },
        EventMessage { subject: real.subject.replace("happened", "undone"), ..real.clone() },
        EventMessage { payload: Bytes::from_static(b"{\"n\":666}"), ..real.clone() },
        // As it was: a repeat.
        real.clone(),
    ];
    for message in &mut forged {
        // Else the server would take most of them for repeats.
        if message.headers != real.headers {
            message.headers.insert("Nats-Msg-Id", ids::random_id().to_string());
        }
    }
    forged
}

fn forged_event(log: &[RecordedEvent], position: u64) -> RecordedEvent {
    RecordedEvent {
        position,
        version: position,
        event_id: ids::new_id(),
        payload: Bytes::from_static(b"{\"n\":666}"),
        ..log[0].clone()
    }
}

/// Heads are compared at the beginning and then not again, so that what is followed counts.
const ON_FOLLOWED_EVENTS_ALONE: FeedSettings = FeedSettings {
    batch: 500,
    max_concurrent_tenants: 6,
    compare_interval: std::time::Duration::from_hours(1),
    workload: None,
};

/// Remembers the events that it was given, of one tenant.
struct Witness {
    seen: Mutex<Vec<RecordedEvent>>,
    tenant: TenantStore,
}

impl Consumer for Witness {
    fn name(&self) -> &'static str {
        "test.witness"
    }

    async fn handle(&self, from: u64, batch: Batch) -> Result<BatchOutcome, StoreError> {
        let to = from + batch.events.len() as u64;
        let transaction = self.tenant.store().tenant(batch.tenant).begin_worker_transaction().await?;
        if !transaction.move_checkpoint(self.name(), batch.log_id, from, to).await? {
            return Ok(BatchOutcome::Conflict);
        }
        transaction.commit().await?;
        if batch.tenant == self.tenant.id() {
            self.seen.lock().expect("not poisoned").extend(batch.events);
        }
        Ok(BatchOutcome::Advanced(to))
    }
}

async fn reached(tenant: &TenantStore) {
    let head = tenant.head().await.expect("a head");
    let reached = tenant.wait_for_checkpoint("test.witness", head.log_id, head.position, DEADLINE).await;
    assert!(reached.expect("the checkpoint reads"), "the consumer reaches {}", head.position);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_get_the_log_whatever_is_published_beside_it() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let store = database.store().await;
    let (tenant, _other) = (open_tenant(&store, "acme").await, open_tenant(&store, "globex").await);
    let cancel = CancellationToken::new();
    let follower = follower(&store, &server, &cancel).await;
    let witness = Arc::new(Witness { seen: Mutex::default(), tenant: tenant.clone() });
    let feeding = tokio::spawn(feed::run(
        store.clone(),
        Arc::clone(&witness),
        follower.batches(),
        ON_FOLLOWED_EVENTS_ALONE,
        cancel.clone(),
    ));
    let relay = Relay::start(&store, &server).await;
    append_many(&tenant, 5).await;
    reached(&tenant).await;
    relayed(&store).await;
    relay.stop().await;

    // These are in the log, and the forger publishes before the relay does.
    append_many(&tenant, 5).await;
    let forger = Forger::at(&server).await;
    let log = read_log(&tenant).await;
    let real = encode(&MessageKey::of(&database.key), &slug(), &log[4], 0);
    for position in [3, 6, 7, 8, 9, 10, 1_000_000] {
        for message in forgeries(&real, &forged_event(&log, position)) {
            forger.publish(message).await;
        }
    }
    let relay = Relay::start(&store, &server).await;
    append_many(&tenant, 20).await;
    reached(&tenant).await;
    for headers in UNREADABLE {
        forger.publish_raw("events.acme.test.thing.happened.v1", headers).await;
        append_many(&tenant, 3).await;
    }
    relayed(&store).await;
    // What the follower lost with its connection comes with what is behind it.
    wait_until("the consumer has everything", || async {
        append_many(&tenant, 1).await;
        let head = tenant.head().await.expect("a head");
        let soon = std::time::Duration::from_secs(1);
        tenant.wait_for_checkpoint("test.witness", head.log_id, head.position, soon).await.unwrap_or(false)
    })
    .await;
    cancel.cancel();
    feeding.await.expect("the feed ends well");
    relay.stop().await;
    let seen = witness.seen.lock().expect("not poisoned").clone();
    assert_eq!(seen, read_log(&tenant).await);
}

/// Of the log that the tenant had before, whose messages verify and whose positions are those of the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeats_of_a_replaced_log_neither_reach_nor_hold_up_a_follower() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    append_many(&tenant, 40).await;
    let old = read_log(&tenant).await;
    let admin = database.connect("postgres").await;
    let cut = format!(
        "delete from events where tenant_id = '{0}' and position > 10; \
         update heads set position = 10 where tenant_id = '{0}'",
        tenant.id().0
    );
    admin.batch_execute(&cut).await.expect("the database goes back");
    let replacement = store::Replacement::of(tenant.id(), old[0].log_id);
    let actor = schemas::engine::Actor::system("test");
    assert_eq!(store.replace_logs(&[replacement], "test", &actor).await.expect("replaced").len(), 1);
    // A process that knows nothing of the log of before.
    let store = database.store().await;
    let tenant = store.tenant(tenant.id());

    let cancel = CancellationToken::new();
    let follower = follower(&store, &server, &cancel).await;
    let witness = Arc::new(Witness { seen: Mutex::default(), tenant: tenant.clone() });
    let feeding = tokio::spawn(feed::run(
        store.clone(),
        Arc::clone(&witness),
        follower.batches(),
        ON_FOLLOWED_EVENTS_ALONE,
        cancel.clone(),
    ));
    let relay = Relay::start(&store, &server).await;
    reached(&tenant).await;
    let (forger, key) = (Forger::at(&server).await, MessageKey::of(&database.key));
    // Always the position that the consumer waits for.
    let next = Arc::new(AtomicUsize::new(tenant.head().await.expect("a head").position as usize + 1));
    let forging = CancellationToken::new();
    let (stop, wanted) = (forging.clone(), Arc::clone(&next));
    let repeating = tokio::spawn(async move {
        // Each once for the server, as after the time for which it knows ids.
        for stream_epoch in 0.. {
            if stop.is_cancelled() {
                break;
            }
            let event = &old[wanted.load(Ordering::Relaxed) - 1];
            forger.publish(encode(&key, &slug(), event, stream_epoch)).await;
        }
    });
    for _ in 0..10 {
        append_many(&tenant, 1).await;
        reached(&tenant).await;
        next.fetch_add(1, Ordering::Relaxed);
    }
    forging.cancel();
    repeating.await.expect("it ends");
    cancel.cancel();
    feeding.await.expect("the feed ends well");
    relay.stop().await;
    let seen = witness.seen.lock().expect("not poisoned").clone();
    assert_eq!(seen, read_log(&tenant).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_forgery_has_a_log_replaced_or_a_person_erased_and_none_ends_the_search() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    append_many(&tenant, 5).await;
    let relay = Relay::start(&store, &server).await;
    relayed(&store).await;
    relay.stop().await;

    let forger = Forger::at(&server).await;
    let log = read_log(&tenant).await;
    let real = encode(&MessageKey::of(&database.key), &slug(), &log[4], 0);
    let erasure = RecordedEvent {
        stream: StreamName::new("privacy.subject", ids::new_id()),
        event_type: EventType::parse("privacy.subject.erased.v1").expect("a type"),
        ..forged_event(&log, 1_000_000)
    };
    for wanted in [forged_event(&log, 3), forged_event(&log, 1_000_000), erasure] {
        for message in forgeries(&real, &wanted) {
            forger.publish(message).await;
        }
    }
    for headers in UNREADABLE {
        for subject in ["events.acme.test.thing.happened.v1", "events.acme.privacy.subject.erased.v1"] {
            forger.publish_raw(subject, headers).await;
            // Whoever reads must come past it.
            forger.publish(with_header(real.clone(), "Nats-Msg-Id", &ids::random_id().to_string())).await;
        }
    }
    let last = forger.last_sequence().await;
    // A database that remembers no mark has everything looked at; it is another process that starts.
    let admin = database.connect("postgres").await;
    admin.batch_execute("update relay_progress set mark_sequence = 0").await.expect("forgotten");
    let store = database.store().await;
    let nats = connect(server.url()).await;
    assert_eq!(nats::relay::check_divergence(&store, &nats).await.expect("examined"), 0);
    assert_eq!(privacy::lost_erasures(&store, &nats).await.expect("looked at"), []);
    assert_eq!(read_log(&store.tenant(tenant.id())).await, log);

    // What the log has lost and the relay has published is found behind all that.
    let cut = format!(
        "delete from events where tenant_id = '{0}' and position = 5; \
         update heads set position = 4 where tenant_id = '{0}'",
        tenant.id().0
    );
    admin.batch_execute(&cut).await.expect("the database goes back");
    let behind = encode(&MessageKey::of(&database.key), &slug(), &log[4], 1);
    assert_eq!(forger.publish(behind).await, (last + 1, false));
    assert_eq!(nats::relay::check_divergence(&store, &nats).await.expect("examined"), 1);
}

/// Publishes under the ids of a log's events before the relay does, and expects the relay to publish all the same.
async fn is_published_although(take: impl Fn(&MessageKey, &RecordedEvent) -> EventMessage) {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    append_many(&tenant, 3).await;
    let (log, key) = (read_log(&tenant).await, MessageKey::of(&database.key));
    connect(server.url()).await.event_stream().await.expect("the stream is made");
    assert!(!Forger::at(&server).await.publish(take(&key, &log[1])).await.1, "it is the first of its id");
    let relay = Relay::start(&store, &server).await;
    wait_until("every event is on the stream as the relay publishes it", || async {
        let seen = Box::pin(read_events(&server, "events.acme.>")).await;
        log.iter().all(|event| {
            seen.iter().any(|message| {
                (0..5).any(|stream_epoch| {
                    let sent = encode(&key, &slug(), event, stream_epoch);
                    sent.headers == message.headers && message.payload == sent.payload
                })
            })
        })
    })
    .await;
    relayed(&store).await;
    relay.stop().await;
}

// No client can guess an id. The forger of these tests has it from a message that it has seen before the stream had it.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_published_although_another_message_took_its_id_first() {
    is_published_although(|key, event| {
        let forged = encode(&MessageKey::of(&DeploymentKey::generate()), &slug(), event, 0);
        with_header(forged, "Nats-Msg-Id", &key.message_id(event.log_id, event.position, 0))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_published_although_its_headers_stand_over_another_payload_already() {
    is_published_although(|key, event| {
        let payload = Bytes::from_static(b"{\"n\":666}");
        EventMessage { payload, ..encode(key, &slug(), event, 0) }
    })
    .await;
}

/// Through the product, as the user of its own account: the read model, the counter and the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_suspension_suspends_no_customer_and_is_counted() {
    let product = Product::shared();
    let tenant = product.tenant().await;
    tenant.register("ada@example.com", "Ada").await;
    crate::support::checker::check(&tenant).await;
    let stored = tenant.stored_events().await;
    let registered = stored
        .iter()
        .find(|event| event["type"] == "crm.customer.registered.v1")
        .expect("the user became a customer");
    let context = jetstream::new(product.nats().await);
    let before = rejected(product).await;
    let head = stored.len() as u64;
    for position in head + 1..head + 4 {
        let mut headers = HeaderMap::new();
        let text = |name: &str| registered[name].as_str().expect("a text").to_owned();
        for (name, value) in [
            ("Nats-Msg-Id", format!("{}.{position}.0", text("logid"))),
            ("ce-specversion", "1.0".to_owned()),
            ("ce-id", ids::new_id().to_string()),
            ("ce-source", text("source")),
            ("ce-type", "crm.customer.suspended.v1".to_owned()),
            ("ce-subject", text("subject")),
            ("ce-time", text("time")),
            ("ce-tenantid", tenant.slug.clone()),
            ("ce-logid", text("logid")),
            ("ce-position", position.to_string()),
            ("ce-streamversion", (position - head + 1).to_string()),
            ("ce-commandid", ids::new_id().to_string()),
            ("ce-correlationid", text("correlationid")),
            ("ce-actor", text("actor")),
            ("content-type", "application/json".to_owned()),
        ] {
            headers.insert(name, value);
        }
        let subject = format!("events.{}.crm.customer.suspended.v1", tenant.slug);
        let ack = context.publish_with_headers(subject, headers, r#"{"reason":"forged"}"#.into()).await;
        ack.expect("sent").await.expect("stored");
    }
    wait_until("the forgeries are counted", || async { rejected(product).await >= before + 3 }).await;
    // The next real events take these positions.
    tenant.register("grace@example.com", "Grace").await;
    let statuses = crate::support::eventually("both are customers", || async {
        let answer = tenant.graphql("{ customers { nodes { status } } }", json!({})).await;
        let nodes = answer["customers"]["nodes"].as_array().expect("nodes").clone();
        (nodes.len() == 2).then_some(nodes)
    })
    .await;
    assert!(statuses.iter().all(|node| node["status"] == "ACTIVE"), "{statuses:?}");
    let types: Vec<Value> = tenant.events().await.iter().map(|event| event["type"].clone()).collect();
    assert!(!types.contains(&json!("crm.customer.suspended.v1")), "{types:?}");
}

/// How many messages were refused so far for want of a MAC.
async fn rejected(product: &Product) -> u64 {
    let url = format!("{}/metrics", product.annals.text("operations_url"));
    let metrics = reqwest::get(url).await.expect("answers").text().await.expect("text");
    let line = metrics.lines().find(|line| {
        line.starts_with("annals_broker_messages_rejected_total") && line.contains("reason=\"no_mac\"")
    });
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}
