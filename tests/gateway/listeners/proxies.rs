//! Clients behind proxies: what a trusted proxy says of them is believed, and nothing else.

use std::net::Ipv4Addr;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::support::product::{Tenant, send};
use crate::support::raw_http::{client_of, connect, metric, rest_of, start};
use crate::support::{Product, eventually};

const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
const HTTPS_ONLY: &str = "strict-transport-security";

/// Signs in with a wrong password; which address the activity log has for it.
async fn recorded_address(tenant: &Tenant<'_>, client: &Client, email: &str, forwarded: &[&str]) -> String {
    let mut request = client.post(tenant.product.url("/v1/auth/login")).header("X-Tenant-ID", &tenant.slug);
    for hops in forwarded {
        request = request.header("X-Forwarded-For", *hops);
    }
    let before = sign_ins(tenant).await.len();
    let (status, answer) = send(request.json(&json!({"email": email, "password": "wrong wrong"}))).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
    eventually("the sign-in is recorded", async || {
        let sign_ins = sign_ins(tenant).await;
        let newest = (sign_ins.len() > before).then(|| sign_ins.first().cloned()).flatten();
        newest.and_then(|entry| Some(entry["address"].as_str()?.to_owned()))
    })
    .await
}

/// Refused sign-ins, newest first.
async fn sign_ins(tenant: &Tenant<'_>) -> Vec<Value> {
    let (status, page) = send(tenant.admin(Method::GET, "/v1/activities?limit=100")).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    let entries = page["activities"].as_array().or_else(|| page["entries"].as_array()).expect("entries");
    let mut entries: Vec<Value> =
        entries.iter().filter(|entry| entry["outcome"] == "invalid_credentials").cloned().collect();
    entries.sort_by(|a, b| b["at"].as_str().cmp(&a["at"].as_str()));
    entries
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_brings_many_clients_and_says_who_they_are() {
    let product =
        start(&[("TRUSTED_PROXIES", "127.0.0.9/32, 10.0.0.0/8"), ("MAX_CONNECTIONS_PER_ADDRESS", "20")]);
    let tenant = product.tenant().await;
    let (proxy, other) = (client_of(PROXY), Client::new());
    let email = "client@proxies.example";
    let by_proxy = recorded_address(&tenant, &proxy, email, &["1.1.1.1, 203.0.113.7", "10.1.2.3"]).await;
    assert_eq!(by_proxy, "203.0.113.7");
    assert_eq!(recorded_address(&tenant, &other, email, &["203.0.113.8"]).await, "127.0.0.1");

    let secure = async |client: &Client, scheme: &str| {
        let request = client.get(product.url("/.well-known/jwks.json")).header("X-Forwarded-Proto", scheme);
        let answer = request.send().await.expect("it answers");
        answer.headers().get(HTTPS_ONLY).map(|value| value.to_str().expect("ASCII").to_owned())
    };
    assert_eq!(secure(&proxy, "https").await.as_deref(), Some("max-age=31536000"));
    assert_eq!(secure(&proxy, "http").await, None);
    assert_eq!(secure(&other, "https").await, None, "a client cannot say so itself");

    // The proxy itself has no limit by address; a client of its own has.
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(connect(&product, PROXY).await);
    }
    let held_by_proxy =
        async || (metric(&product, "annals_connections{listener=\"public\"}").await >= 40.0).then_some(());
    eventually("the proxy's connections are held", held_by_proxy).await;
    let single = Ipv4Addr::new(127, 0, 0, 10);
    for _ in 0..20 {
        held.push(connect(&product, single).await);
    }
    let answer = rest_of(&mut connect(&product, single).await).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_the_network_is_asked_by_https_only() {
    let product = start(&[("PUBLIC_HOST", "api.annals.example"), ("CORS_ALLOWED_ORIGINS", "")]);
    let answer = product.request(Method::GET, "/v1/auth/me").send().await.expect("it answers");
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers()[HTTPS_ONLY], "max-age=31536000");
    let answer = Product::shared().request(Method::GET, "/v1/auth/me").send().await.expect("it answers");
    assert!(!answer.headers().contains_key(HTTPS_ONLY), "development on localhost is not told so");
}
