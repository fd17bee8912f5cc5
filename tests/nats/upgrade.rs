//! A stream of a version whose messages carried no MAC: everything is published again, and nothing of before counts.

use async_nats::HeaderMap;
use async_nats::jetstream;
use nats::message::{MessageKey, encode};
use schemas::engine::TenantSlug;
use store::Store;

use crate::support::nats_server::NatsServer;
use crate::support::postgres::{Database, open_tenant};
use crate::support::relay::{
    Relay, Seen, append_many, assert_holds_the_log, connect, read_events, read_log, relayed, wait_until,
};

const MIGRATION: &str = include_str!("../../store/migrations/V24__authenticated_messages.sql");

/// Publishes a tenant's log as that version did and notes the progress as it did, in generation 3.
async fn publish_without_mac(store: &Store, database: &Database, server: &NatsServer, slug: &str) {
    let tenant = open_tenant(store, slug).await;
    append_many(&tenant, 30).await;
    let (log, slug) = (read_log(&tenant).await, TenantSlug::parse(slug).expect("a slug"));
    connect(server.url()).await.event_stream().await.expect("the stream is made");
    let client = async_nats::connect(server.url()).await.expect("a stock client connects");
    let context = jetstream::new(client);
    let mut last = 0;
    for event in &log {
        let message = encode(&MessageKey::of(&database.key), &slug, event, 3);
        let mut headers = HeaderMap::new();
        for (name, values) in message.headers.iter().filter(|(name, _)| name.to_string() != "annals-mac") {
            headers.insert(name.clone(), values[0].clone());
        }
        headers.insert("Nats-Msg-Id", format!("{}.{}.3", event.log_id, event.position));
        let ack = context.publish_with_headers(message.subject, headers, message.payload).await;
        last = ack.expect("sent").await.expect("stored").sequence;
    }
    let progress = format!(
        "insert into relay_progress (tenant_id, log_id, generation, acked, removed, mark_sequence, mark_position) \
         values ('{}', '{}', 3, {head}, 0, {last}, {head})",
        tenant.id().0,
        log[0].log_id.0,
        head = log.len(),
    );
    database.connect("postgres").await.batch_execute(&progress).await.expect("noted");
}

fn with_mac(seen: Vec<Seen>) -> Vec<Seen> {
    seen.into_iter().filter(|message| !message.header("annals-mac").is_empty()).collect()
}

async fn is_published_again(migrates: bool) {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let store = database.store().await;
    publish_without_mac(&store, &database, &server, "acme").await;
    publish_without_mac(&store, &database, &server, "globex").await;
    if migrates {
        let owner = database.connect("postgres").await;
        owner.batch_execute(&format!("set role annals_owner; {MIGRATION}")).await.expect("migrates");
    }
    assert_eq!(
        nats::relay::check_divergence(&store, &connect(server.url()).await).await.expect("examined"),
        0
    );
    let relay = Relay::start(&store, &server).await;
    wait_until("everything is on the stream again", || async {
        with_mac(Box::pin(read_events(&server, "events.>")).await).len() >= 60
    })
    .await;
    relayed(&store).await;
    relay.stop().await;

    let seen = with_mac(Box::pin(read_events(&server, "events.>")).await);
    let progress = nats::relay::progress::all(&store).await.expect("the progress reads");
    for slug in ["acme", "globex"] {
        let slug = TenantSlug::parse(slug).expect("a slug");
        let record = store.tenant_by_slug(&slug).await.expect("reads").expect("it is there");
        assert_holds_the_log(&seen, &store.tenant(record.id)).await;
        let row = progress.iter().find(|row| row.tenant == record.id).expect("a row");
        if migrates {
            assert_eq!((row.stream_epoch, row.is_single_epoch), (4, true), "raised once, one new filling");
        } else {
            assert!(row.stream_epoch > 3);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_migration_every_log_is_published_again_once() {
    is_published_again(true).await;
}

/// As where an older process has gone on publishing after the migration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_without_a_mac_are_noticed_and_published_again() {
    is_published_again(false).await;
}
