//! NATS away: the truth is in PostgreSQL, so commands, reads and sagas go on; what is published catches up.

use reqwest::Method;
use serde_json::json;

use crate::support::deployment::Answer;
use crate::support::eventually;
use crate::support::nats_server::NatsServer;
use crate::support::outage_site::Site;
use crate::support::postgres_server::PostgresServer;

/// All events of the tenant stand on the stream, each once.
async fn published(site: &Site, nats: &NatsServer) {
    let head = Answer::of(site.events()).await.body["head"].as_u64().expect("a head");
    let client = async_nats::connect(nats.url()).await.expect("NATS answers");
    let context = async_nats::jetstream::new(client);
    eventually("every event is published", || async {
        let stream = context.get_stream("EVENTS").await.ok()?;
        let subjects = format!("events.{}.>", site.tenant.slug);
        let info = stream.info_with_subjects(subjects).await.ok()?;
        let mut count = 0;
        let mut info = std::pin::pin!(info);
        while let Some(Ok((_, messages))) = futures::StreamExt::next(&mut info).await {
            count += messages as u64;
        }
        assert!(count <= head, "{count} messages for {head} events");
        (count == head).then_some(())
    })
    .await;
}

/// Away when the process starts, and again later.
#[tokio::test]
async fn unreachable_at_start_and_later() {
    let postgres = PostgresServer::start(&[]).await;
    let mut nats = NatsServer::start().await;
    nats.kill();
    let site = Site::start(postgres.port(), &nats.url()).await;
    site.registered("ada", 1_000).await;
    site.customers_are(1).await;
    site.assert_not_ready("nats").await;
    nats.restart().await;
    site.ready().await;
    published(&site, &nats).await;

    // A NATS without accounts has no place for integrators, and the product says so.
    let request = site.process.request(Method::POST, "/v1/integrations/credentials");
    let answer = Answer::of(request.bearer_auth(&site.tenant.token).json(&json!({"name": "erp"}))).await;
    assert!(answer.is_unavailable(), "{answer:?}");
    assert!(answer.body["detail"].as_str().is_some_and(|text| text.contains("not configured")), "{answer:?}");

    nats.kill();
    site.registered("bo", 1_001).await;
    site.customers_are(2).await;
    site.assert_not_ready("nats").await;
    nats.restart().await;
    site.ready().await;
    published(&site, &nats).await;
}
