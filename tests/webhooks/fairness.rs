//! Tenants whose endpoints hang do not delay the deliveries of others.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::integration_site::Site;
use crate::support::product::{Tenant, send};
use crate::support::webhook_receiver::Receiver;

/// What an endpoint may take, and so how long one that hangs keeps its request.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Endpoints of each tenant that hang: more together than the process has requests.
const HANGING: usize = 6;
/// Requests of each tenant at a time.
const SHARE: usize = 4;

async fn register(tenant: &Tenant<'_>, url: &str) {
    let body = json!({"url": url, "after": 0});
    let (status, webhook) = send(tenant.admin(Method::POST, "/v1/webhooks").json(&body)).await;
    assert_eq!(status, StatusCode::CREATED, "{webhook}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_with_hanging_endpoints_do_not_delay_another_tenants_deliveries() {
    let timeout = TIMEOUT.as_secs().to_string();
    let site = Site::start(&[
        ("ANNALS__WEBHOOKS__REQUEST_TIMEOUT_SECONDS", &timeout),
        ("ANNALS__WEBHOOKS__MAX_CONCURRENT_REQUESTS", "16"),
        ("ANNALS__WEBHOOKS__MAX_CONCURRENT_REQUESTS_PER_TENANT", &SHARE.to_string()),
    ]);
    // It takes connections, through the backlog, and never says anything.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", silent.local_addr().expect("bound"));
    let mut hanging = Vec::new();
    for _ in 0..3 {
        let tenant = site.product.tenant().await;
        for _ in 0..HANGING {
            register(&tenant, &url).await;
        }
        hanging.push(tenant);
    }
    let begun = Instant::now();
    // Each tenant has its share under way, and more endpoints that wait.
    let mut held = Vec::new();
    while held.len() < 3 * SHARE {
        let accepted = tokio::time::timeout(TIMEOUT, silent.accept()).await;
        held.push(accepted.expect("the requests arrive").expect("it listens"));
    }

    let tenant = site.product.tenant().await;
    let receiver = Receiver::start().await;
    register(&tenant, &receiver.url).await;
    let head = tenant.events().await.len() as u64;
    receiver.has(head).await;
    assert!(begun.elapsed() < TIMEOUT, "it waited for a hanging endpoint: {:?}", begun.elapsed());
}
