//! Streams of an auditor's token: they end when the token does, and when it is taken back, with the reason and the place.

use std::time::Duration;

use chrono::{SubsecRound, TimeDelta};
use reqwest::{Method, StatusCode};
use schemas::engine::clock;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::integration_site::{Site, Socket, Sse, positions, until_both_are_closed};
use crate::support::product::{Tenant, send};
use crate::support::services::refused;

/// Streams that never end go on for ever.
const PATIENCE: Duration = Duration::from_secs(20);

async fn issued(tenant: &Tenant<'_>, end: (&str, Value)) -> (String, String) {
    let mut body = json!({"name": "Auditor", "scopes": ["audit:read", "events:read"]});
    body[end.0] = end.1;
    let (status, answer) = send(tenant.admin(Method::POST, "/v1/service-tokens").json(&body)).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (text(&answer["access_token"]), text(&answer["service_token"]["id"]))
}

/// Both sorts of streams, with everything behind position 0.
async fn streams(site: &'static Site, tenant: &Tenant<'_>, token: &str) -> (Sse, Socket) {
    (Sse::open(tenant, "", Some(token), None).await, Socket::with_token(site, "", token).await)
}

/// Waits for the ends of both and compares why they ended, and that each tells its place: at `from` or one behind it.
async fn ended((stream, socket): (Sse, Socket), code: &str, from: u64) {
    let ((events, last), socket) = until_both_are_closed(stream, socket).await;
    let at = *positions(&events).last().expect("some events");
    assert!((from..=from + 1).contains(&at), "{at}");
    assert_eq!(last, [format!("id: {at}"), format!(": closed {code} after {at}")]);
    let (events, last, closed) = socket;
    let at = *positions(&events).last().expect("some events");
    assert!((from..=from + 1).contains(&at), "{at}");
    assert_eq!(last, json!({"type": "closed", "code": code, "after": at.to_string()}));
    assert_eq!(closed, 4401);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditors_streams_end_with_the_token() {
    let site = Site::shared();
    let tenant = site.product.tenant().await;
    // Tokens count in whole seconds.
    let end = clock::now().trunc_subsecs(0) + TimeDelta::seconds(8);
    let (token, _) = issued(&tenant, ("expires_at", json!(end.to_rfc3339()))).await;
    let opened = streams(site, &tenant, &token).await;
    let head = tenant.events().await.len() as u64;
    timeout(PATIENCE, ended(opened, "token_expired", head)).await.expect("the streams end");
    assert!(clock::now() >= end, "not before it ends");
    let request = site.product.request(Method::GET, "/v1/events").bearer_auth(&token);
    refused(send(request).await, 401, "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditors_streams_end_when_the_token_is_taken_back() {
    let site = Site::shared();
    let tenant = site.product.tenant().await;
    let (token, id) = issued(&tenant, ("expires_days", json!(30))).await;
    let opened = streams(site, &tenant, &token).await;
    let path = format!("/v1/service-tokens/{id}");
    assert_eq!(send(tenant.admin(Method::DELETE, &path)).await.0, StatusCode::NO_CONTENT);
    // They may see the fact itself, or be closed before it comes.
    let head = tenant.events().await.len() as u64;
    timeout(PATIENCE, ended(opened, "token_revoked", head - 1)).await.expect("the streams end");
    let request = site.product.request(Method::GET, "/v1/events").bearer_auth(&token);
    refused(send(request).await, 401, "unauthenticated");
}
