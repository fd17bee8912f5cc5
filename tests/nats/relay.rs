//! The relay: order, continuation, outages, and two of them at once.

use nats::message::MessageKey;
use schemas::engine::{Actor, LogId, Metadata, RequestId, StreamName, ids};
use store::{ExpectedVersion, StreamAppend, TenantStore};

use crate::support::nats_server::NatsServer;
use crate::support::postgres::{Database, event, metadata, open_tenant};
use crate::support::relay::{
    Relay, append_many, assert_holds_the_log, read_events, read_log, relayed, wait_until,
};

const ALL: &str = "events.>";

#[tokio::test]
async fn a_message_carries_what_the_contract_says() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let (user, trace) = (ids::new_id(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let recorded_with = Metadata {
        request_id: RequestId::parse("req-1"),
        traceparent: Some(trace.to_owned()),
        causation_id: Some(ids::new_id()),
        ..Metadata::new(Actor::user(user), ids::new_id())
    };
    let payload = r#"{ "email":"ada@example.com", "n":1.50 }"#;
    let stream = StreamName::new("identity.user", user);
    let events = vec![event("identity.user.registered.v1", payload)];
    let append = StreamAppend::new(stream.clone(), ExpectedVersion::NoStream, events, recorded_with.clone());
    let receipt = tenant.append(append).await.expect("the append succeeds");

    let relay = Relay::start(&store, &server).await;
    relayed(&store).await;
    relay.stop().await;

    let seen = read_events(&server, "events.acme.>").await;
    assert_eq!(seen.len(), 1);
    let (message, recorded) = (&seen[0], &read_log(&tenant).await[0]);
    assert_eq!(message.subject, "events.acme.identity.user.registered.v1");
    assert_eq!(message.payload, payload.as_bytes(), "the body is the stored payload, byte for byte");
    let time = recorded.recorded_at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    let expected = [
        ("ce-specversion", "1.0".to_owned()),
        ("ce-id", recorded.event_id.to_string()),
        ("ce-source", "/tenants/acme".to_owned()),
        ("ce-type", "identity.user.registered.v1".to_owned()),
        ("ce-subject", stream.to_string()),
        ("ce-time", time),
        ("ce-tenantid", "acme".to_owned()),
        ("ce-logid", receipt.log_id.to_string()),
        ("ce-position", "1".to_owned()),
        ("ce-streamversion", "1".to_owned()),
        ("ce-correlationid", recorded_with.correlation_id.to_string()),
        ("ce-causationid", recorded_with.causation_id.expect("set above").to_string()),
        ("ce-requestid", "req-1".to_owned()),
        ("ce-actor", format!("user:{user}")),
        ("content-type", "application/json".to_owned()),
        ("Nats-Msg-Id", MessageKey::of(&database.key).message_id(receipt.log_id, 1, 0)),
        ("request-id", "req-1".to_owned()),
        ("traceparent", trace.to_owned()),
    ];
    for (name, value) in expected {
        assert_eq!(message.header(name), value, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_is_published_once_and_in_order_over_restarts_of_the_relay() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let store = database.store().await;
    let mut tenants = Vec::new();
    for slug in ["acme", "globex", "initech"] {
        tenants.push(open_tenant(&store, slug).await);
    }
    for round in 0..4 {
        let relay = Relay::start(&store, &server).await;
        futures::future::join_all(tenants.iter().map(|tenant| append_many(tenant, 400))).await;
        // Every second relay dies in the middle of its work.
        if round % 2 == 0 { relay.abort().await } else { relay.stop().await }
    }
    let relay = Relay::start(&store, &server).await;
    relayed(&store).await;
    relay.stop().await;

    let seen = read_events(&server, ALL).await;
    for tenant in &tenants {
        assert_holds_the_log(&seen, tenant).await;
    }
    assert_eq!(seen.len(), 3 * 1_600 + tenants.len(), "and the platform's own log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_relays_at_once_publish_every_event_once() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let (one, two) = (database.store().await, database.store().await);
    let (acme, globex) = (open_tenant(&one, "acme").await, open_tenant(&one, "globex").await);
    append_many(&acme, 300).await;
    let relays = [Relay::start(&one, &server).await, Relay::start(&two, &server).await];
    futures::join!(append_many(&acme, 700), append_many(&globex, 1_000));
    relayed(&one).await;
    for relay in relays {
        relay.stop().await;
    }

    let seen = read_events(&server, ALL).await;
    assert_eq!(seen.len(), 2_002);
    for tenant in [acme, globex] {
        assert_holds_the_log(&seen, &tenant).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_waits_for_a_server_that_is_not_there_yet() {
    let (database, mut server) = (Database::create().await, NatsServer::start().await);
    server.kill();
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    append_many(&tenant, 10).await;
    let relay = Relay::start(&store, &server).await;
    server.restart().await;
    relayed(&store).await;
    relay.stop().await;
    assert_holds_the_log(&read_events(&server, ALL).await, &tenant).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_recorded_while_the_server_is_away_follow_when_it_is_back() {
    let (database, mut server) = (Database::create().await, NatsServer::start().await);
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let relay = Relay::start(&store, &server).await;
    append_many(&tenant, 500).await;
    server.kill();
    append_many(&tenant, 500).await;
    server.restart().await;
    relayed(&store).await;
    relay.stop().await;
    // After an outage lower positions may follow higher ones, but nothing is missing or stored twice.
    let mut positions: Vec<u64> = read_events(&server, "events.acme.>")
        .await
        .iter()
        .map(crate::support::relay::Seen::position)
        .collect();
    positions.sort_unstable();
    assert_eq!(positions, (1..=1_000).collect::<Vec<_>>());
}

/// Sets the size above which JetStream refuses a message.
async fn limit_message_size(server: &NatsServer, bytes: i32) {
    let client = async_nats::connect(server.url()).await.expect("a stock client connects");
    let jetstream = async_nats::jetstream::new(client);
    let mut config =
        jetstream.get_stream("EVENTS").await.expect("the stream exists").cached_info().config.clone();
    config.max_message_size = bytes;
    jetstream.update_stream(config).await.expect("the limit is set");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_the_server_refuses_holds_up_its_own_tenant_only_and_is_never_passed_over() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let store = database.store().await;
    let (acme, globex) = (open_tenant(&store, "acme").await, open_tenant(&store, "globex").await);
    let relay = Relay::start(&store, &server).await;
    relayed(&store).await;
    limit_message_size(&server, 4_096).await;
    append_many(&acme, 4).await;
    let large = event("test.thing.happened.v1", &format!("{{\"text\":\"{}\"}}", "x".repeat(8_192)));
    let stream = StreamName::new("test.thing", ids::new_id());
    let append = StreamAppend::new(stream, ExpectedVersion::Any, vec![large], metadata());
    acme.append(append).await.expect("the log takes it");
    append_many(&acme, 45).await;
    append_many(&globex, 300).await;

    let acked = async |tenant: &TenantStore| {
        let progress = nats::relay::progress::all(&store).await.expect("the progress reads");
        progress.iter().find(|row| row.tenant == tenant.id()).map_or(0, |row| row.acked)
    };
    wait_until("the other tenant is relayed, and this one up to the refused event", || async {
        (acked(&globex).await, acked(&acme).await) == (300, 4)
    })
    .await;
    limit_message_size(&server, -1).await;
    relayed(&store).await;
    relay.stop().await;
    let mut positions: Vec<u64> = read_events(&server, "events.acme.>")
        .await
        .iter()
        .map(crate::support::relay::Seen::position)
        .collect();
    positions.sort_unstable();
    assert_eq!(positions, (1..=50).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_stream_is_filled_again_under_a_new_generation() {
    let (database, mut server) = (Database::create().await, NatsServer::start().await);
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let relay = Relay::start(&store, &server).await;
    append_many(&tenant, 600).await;
    relayed(&store).await;
    server.kill();
    server.wipe();
    server.restart().await;
    wait_until("the generation is raised", || async {
        let progress = nats::relay::progress::all(&store).await.unwrap_or_default();
        progress.iter().any(|tenant| tenant.stream_epoch == 1)
    })
    .await;
    relayed(&store).await;
    relay.stop().await;
    let seen = read_events(&server, ALL).await;
    assert_holds_the_log(&seen, &tenant).await;
    let key = MessageKey::of(&database.key);
    let id_of = |message: &crate::support::relay::Seen| {
        let log = LogId(message.header("ce-logid").parse().expect("an id"));
        key.message_id(log, message.position(), 1)
    };
    assert!(seen.iter().all(|message| message.header("Nats-Msg-Id") == id_of(message)));
}
