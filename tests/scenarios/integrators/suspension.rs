//! A tenant that is put on hold by command: every door closes, and opens again.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::support::eventually;
use crate::support::integration_site::{Site, Socket, Sse, until_both_are_closed};
use crate::support::integrator::Integrator;
use crate::support::process::{output_of, run};
use crate::support::product::{PASSWORD, Tenant, send};
use crate::support::webhook_receiver::Receiver;

/// Streams that never end go on for ever.
const PATIENCE: Duration = Duration::from_secs(20);

fn annals(site: &Site, arguments: &[&str]) -> String {
    output_of(&[&["--config", &site.product.annals.settings()], arguments].concat())
}

/// What each door of HTTP answers.
async fn doors(tenant: &Tenant<'_>, service: &str) -> Vec<(StatusCode, Value)> {
    let login = json!({"email": format!("admin@{}.example", tenant.slug), "password": PASSWORD});
    let new = json!({"email": "new@example.com", "password": PASSWORD, "name": "New"});
    let query = json!({"query": "{ customers { totalCount } }"});
    let mut answers = Vec::new();
    for request in [
        tenant.anonymous(Method::POST, "/v1/auth/login").json(&login),
        tenant.anonymous(Method::POST, "/v1/auth/register").json(&new),
        tenant.admin(Method::GET, "/v1/auth/me"),
        tenant.admin(Method::GET, "/v1/events"),
        tenant.admin(Method::GET, "/v1/audit/key"),
        tenant.admin(Method::POST, "/graphql").json(&query),
        tenant.product.request(Method::GET, "/v1/events").bearer_auth(service),
    ] {
        answers.push(send(request).await);
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_finds_every_door_closed_until_it_is_resumed() {
    let site = Site::shared();
    let (tenant, neighbour) = (site.product.tenant().await, site.product.tenant().await);
    let body = json!({"name": "reader", "scopes": ["events:read"], "expires_days": 1});
    let (_, service) = send(tenant.admin(Method::POST, "/v1/service-tokens").json(&body)).await;
    let service = service["access_token"].as_str().expect("a token").to_owned();
    let (status, issued) =
        send(tenant.admin(Method::POST, "/v1/integrations/credentials").json(&json!({"name": "reader"})))
            .await;
    assert_eq!(status, StatusCode::CREATED, "{issued}");
    let integrator = Integrator::new(issued);
    let client = integrator.connect().await.expect("it connects");
    let receiver = Receiver::start().await;
    let hook = json!({"url": receiver.url, "after": 0});
    assert_eq!(send(tenant.admin(Method::POST, "/v1/webhooks").json(&hook)).await.0, StatusCode::CREATED);
    receiver.has(tenant.events().await.len() as u64).await;
    let mut stream = Sse::open(&tenant, "", Some(&tenant.token), None).await;
    let mut socket = Socket::with_token(site, "", &tenant.token).await;
    stream.event().await;
    socket.event().await;
    let streams = AbortOnDropHandle::new(tokio::spawn(until_both_are_closed(stream, socket)));
    eventually("the log is sealed for the first time", || async {
        send(tenant.admin(Method::GET, "/v1/audit/key")).await.0.is_success().then_some(())
    })
    .await;
    let open = doors(&tenant, &service).await;
    assert!(open.iter().all(|(status, _)| status.is_success()), "{open:?}");

    let told = annals(site, &["tenant", "suspend", &tenant.slug, "--reason", "unpaid", "--output", "json"]);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["suspended"], true);
    let slug = &tenant.slug;
    let store = site.store().await;
    eventually("every door of HTTP is closed", || async {
        let answers = doors(&tenant, &service).await;
        let closed = |(status, problem): &(StatusCode, Value)| {
            *status == StatusCode::NOT_FOUND && problem["code"] == "tenant_unknown"
        };
        answers.iter().all(closed).then_some(())
    })
    .await;
    let ended = timeout(PATIENCE, streams).await.expect("both end").expect("in order");
    let ((_, last), (_, socket_last, code)) = ended;
    assert!(last.last().expect("last words").starts_with(": closed tenant_unknown"), "{last:?}");
    assert_eq!((&socket_last["code"], code), (&json!("tenant_unknown"), 4404));
    eventually("the integrator is cut", || async {
        (client.connection_state() != async_nats::connection::State::Connected).then_some(())
    })
    .await;
    assert!(integrator.connect().await.is_err());
    let quiet = receiver.positions();
    site.append(&store, slug, 1, 10).await;
    // The neighbour's webhooks go on, so the deliveries had their turn.
    let watched = Receiver::start().await;
    let hook = json!({"url": watched.url, "after": 0});
    send(neighbour.admin(Method::POST, "/v1/webhooks").json(&hook)).await;
    watched.has(neighbour.events().await.len() as u64).await;
    assert_eq!(receiver.positions(), quiet, "the tenant's webhook is held");

    // Again is no further fact; a tenant that is not there is not found.
    annals(site, &["tenant", "suspend", slug]);
    assert_eq!(
        run(&["--config", &site.product.annals.settings(), "tenant", "suspend", "nobody-here"]).status.code(),
        Some(3)
    );
    let settings = site.product.annals.settings();
    assert_eq!(run(&["--config", &settings, "tenant", "suspend", "platform"]).status.code(), Some(3));
    let told = annals(site, &["tenant", "resume", slug, "--output", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&told).expect("JSON")["suspended"], false);
    eventually("every door is open", || async {
        let answers = doors(&tenant, &service).await;
        // The address of the first round is taken.
        answers.iter().all(|(status, _)| status.is_success() || *status == StatusCode::CONFLICT).then_some(())
    })
    .await;
    receiver.has(tenant.events().await.len() as u64).await;
    eventually("the integrator is let in", || async { integrator.connect().await.ok().map(|_| ()) }).await;
    let platform = site.product.request(Method::GET, "/v1/events?limit=1000&type=identity.tenant.*.v1");
    let (_, facts) = send(platform.bearer_auth(site.product.admin_token())).await;
    let subject = format!("identity.tenant/{}", told_id(&told));
    let of_tenant: Vec<&str> = facts["events"]
        .as_array()
        .expect("events")
        .iter()
        .filter(|event| event["subject"] == subject.as_str())
        .filter_map(|event| event["type"].as_str())
        .collect();
    assert_eq!(
        of_tenant,
        ["identity.tenant.registered.v1", "identity.tenant.suspended.v1", "identity.tenant.resumed.v1"]
    );
    store.shutdown().await;
}

fn told_id(told: &str) -> String {
    let told: Value = serde_json::from_str(told).expect("JSON");
    told["id"].as_str().expect("an id").to_owned()
}
