//! Deliveries across the death of the process that makes them, and addresses that are refused: `annals serve` with the
//! roles gateway and webhooks over a database of its own.

use std::io::Write as _;

use reqwest::{Client, Method, StatusCode};
use schemas::engine::{StreamName, TenantSlug, ids};
use serde_json::{Value, json};
use store::{ExpectedVersion, StreamAppend};

use crate::support::deployment::{Answer, Deployment};
use crate::support::eventually;
use crate::support::postgres::{event, metadata};
use crate::support::postgres_server::PostgresServer;
use crate::support::webhook_receiver::Receiver;

const EVENTS: u64 = 400;

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_go_on_in_order_after_a_kill_and_no_private_address_is_delivered_to() {
    let database = PostgresServer::start(&[]).await;
    // No role here has anything to do with NATS.
    let deployment = Deployment::new(database.port(), "nats://127.0.0.1:1");
    let mut process = deployment.serve("gateway,webhooks");
    process.started().await;
    let tenant = deployment.tenant(&process, "acme").await;
    let ask = |method: Method, url: String, body: Option<Value>| {
        let mut request = Client::new().request(method, url).bearer_auth(&tenant.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::of(request)
    };

    // As in production: the endpoint is of this machine, so nothing must reach it.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    for (url, code) in [
        (format!("http://localhost:{port}/"), "url_invalid"),
        (format!("https://127.0.0.1:{port}/"), "url_private"),
        (format!("https://[::ffff:127.0.0.1]:{port}/"), "url_private"),
    ] {
        let refused = ask(Method::POST, process.url("/v1/webhooks"), Some(json!({"url": url}))).await;
        assert_eq!(
            (refused.status, &refused.body["errors"][0]["code"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!(code))
        );
    }
    let body = json!({"url": format!("https://localhost:{port}/"), "after": 0});
    let webhook = ask(Method::POST, process.url("/v1/webhooks"), Some(body)).await;
    assert_eq!(webhook.status, StatusCode::CREATED, "{webhook:?}");
    let path = format!("/v1/webhooks/{}", webhook.body["id"].as_str().expect("an id"));
    let error = eventually("an attempt has failed", || async {
        let log = ask(Method::GET, process.url(&format!("{path}/deliveries")), None).await;
        log.body["deliveries"][0]["error"].as_str().map(str::to_owned)
    })
    .await;
    assert_eq!(error, "address_refused");
    assert_eq!(ask(Method::DELETE, process.url(&path), None).await.status, StatusCode::NO_CONTENT);

    process.kill();
    let mut settings =
        std::fs::File::options().append(true).open(deployment.settings()).expect("the settings");
    settings
        .write_all(b"[webhooks]\nallow_private_addresses = true\ninitial_delay_ms = 100\n")
        .expect("written");
    process.spawn();
    process.started().await;
    let store = deployment.store().await;
    let slug = TenantSlug::parse(&tenant.slug).expect("a slug");
    let record = store.tenant_by_slug(&slug).await.expect("the store answers").expect("it is there");
    let handle = store.tenant(record.id);
    let appends = (0..EVENTS).map(|number| {
        StreamAppend::new(
            StreamName::new("ext.load", ids::new_id()),
            ExpectedVersion::NoStream,
            vec![event("ext.load.recorded.v1", &json!({"number": number}).to_string())],
            metadata(),
        )
    });
    for receipt in handle.append_all(appends.collect()).await {
        receipt.expect("appended");
    }
    let head = handle.head().await.expect("a head").position;

    let receiver = Receiver::start().await;
    let body = json!({"url": receiver.url, "after": 0});
    assert_eq!(ask(Method::POST, process.url("/v1/webhooks"), Some(body)).await.status, StatusCode::CREATED);
    for killed_at in [head / 4, head / 2] {
        receiver.has(killed_at).await;
        process.kill();
        process.spawn();
    }
    receiver.has(head).await;
    let mut reached = 0;
    for position in receiver.positions() {
        assert!(position <= reached + 1, "{position} came after {reached}");
        reached = reached.max(position);
    }
    assert_eq!(reached, head);
    let repeated = receiver.positions().len() as u64 - head;
    println!("{repeated} of {head} deliveries were repeated after two kills");
    store.shutdown().await;
}
