//! Rules of the relay that are made false behind the product: that tenant is not published, nothing is repaired, and
//! other tenants continue.

use store::{Invariant, Store};
use tokio_postgres::Client;

use crate::support::nats_server::NatsServer;
use crate::support::postgres::{Database, open_tenant};
use crate::support::relay::{Relay, append_many, read_events, relayed, wait_until};
use crate::support::violations::Reports;

/// Head and acknowledged position of a tenant.
async fn progress(store: &Store, slug: &str) -> (u64, u64) {
    let all = nats::relay::progress::all(store).await.expect("reads");
    let row = all.iter().find(|row| row.slug.as_str() == slug).expect("the tenant is there");
    (row.head, row.acked)
}

async fn published(server: &NatsServer, slug: &str) -> Vec<u64> {
    let seen = read_events(server, &format!("events.{slug}.>")).await;
    seen.iter().map(crate::support::relay::Seen::position).collect()
}

async fn change(owner: &Client, sql: &str, tenant: schemas::engine::TenantId) {
    assert_eq!(owner.execute(sql, &[&tenant.0]).await.expect("changes"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_with_a_gap_stops_the_relay_of_its_tenant() {
    let reports = Reports::of(Invariant::RelayPage).await;
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let store = database.store().await;
    let (broken, whole) = (open_tenant(&store, "broken").await, open_tenant(&store, "whole").await);
    for tenant in [&broken, &whole] {
        append_many(tenant, 5).await;
    }
    let owner = database.connect("postgres").await;
    change(&owner, "delete from events where tenant_id = $1 and position = 3", broken.id()).await;

    let relay = Relay::start(&store, &server).await;
    reports.reach(1).await;
    for tenant in [&broken, &whole] {
        append_many(tenant, 5).await;
    }
    wait_until("the other tenant is relayed", || async { progress(&store, "whole").await == (10, 10) }).await;
    relay.stop().await;
    assert_eq!(progress(&store, "broken").await, (10, 0));
    assert_eq!(published(&server, "broken").await, [0; 0]);
    assert_eq!(published(&server, "whole").await, (1..=10).collect::<Vec<_>>());
    assert_eq!(reports.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_lacks_what_was_published_stops_its_republish() {
    let reports = Reports::of(Invariant::LogPositions).await;
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let store = database.store().await;
    let (broken, whole) = (open_tenant(&store, "broken").await, open_tenant(&store, "whole").await);
    for tenant in [&broken, &whole] {
        append_many(tenant, 5).await;
    }
    let relay = Relay::start(&store, &server).await;
    relayed(&store).await;
    relay.stop().await;
    let client = async_nats::connect(server.url()).await.expect("connects");
    let stream = async_nats::jetstream::new(client).get_stream("EVENTS").await.expect("the stream exists");
    for message in 1..=stream.cached_info().state.last_sequence {
        let seen = stream.get_raw_message(message).await.expect("the message is there");
        if seen.headers.get("ce-position").is_some_and(|position| position.as_str() == "3") {
            stream.delete_message(message).await.expect("deletes");
        }
    }
    let owner = database.connect("postgres").await;
    change(&owner, "delete from events where tenant_id = $1 and position = 3", broken.id()).await;

    let relay = Relay::start(&store, &server).await;
    reports.reach(1).await;
    for tenant in [&broken, &whole] {
        append_many(tenant, 5).await;
    }
    wait_until("the other tenant is relayed", || async { progress(&store, "whole").await == (10, 10) }).await;
    relay.stop().await;
    assert_eq!(progress(&store, "broken").await, (10, 5));
    assert_eq!(published(&server, "broken").await, [1, 2, 4, 5]);
    let mut republished = published(&server, "whole").await;
    republished.sort_unstable();
    assert_eq!(republished, (1..=10).collect::<Vec<_>>());
    assert_eq!(reports.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_beyond_the_head_stops_the_relay_of_its_tenant() {
    let reports = Reports::of(Invariant::CheckpointWithinHead).await;
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let store = database.store().await;
    let (broken, whole) = (open_tenant(&store, "broken").await, open_tenant(&store, "whole").await);
    for tenant in [&broken, &whole] {
        append_many(tenant, 5).await;
    }
    let relay = Relay::start(&store, &server).await;
    relayed(&store).await;
    relay.stop().await;
    let owner = database.connect("postgres").await;
    change(&owner, "update relay_progress set acked = 8 where tenant_id = $1", broken.id()).await;

    let relay = Relay::start(&store, &server).await;
    reports.reach(1).await;
    for tenant in [&broken, &whole] {
        append_many(tenant, 5).await;
    }
    wait_until("the other tenant is relayed", || async { progress(&store, "whole").await == (10, 10) }).await;
    relay.stop().await;
    assert_eq!(progress(&store, "broken").await, (10, 8), "although the head is beyond it");
    assert_eq!(published(&server, "broken").await, (1..=5).collect::<Vec<_>>());
    assert_eq!(reports.count(), 1);
}
