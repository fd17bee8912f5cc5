//! Pages of other origins, as browsers let them use the gateway: what a listed one may do and read, and that any other one
//! is told nothing.

use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::product::{Product, Tenant, send};

/// Listed by the settings that everybody starts with.
const LISTED: &str = "http://localhost:5173";
/// Not that one: another scheme, another port, a longer name, none.
const OTHERS: [&str; 5] =
    ["https://localhost:5173", "http://localhost:5174", "http://localhost:5173.evil.test", "null", "*"];

async fn answer(request: RequestBuilder, origin: &str) -> (StatusCode, HeaderMap, Value) {
    let answer = request.header("Origin", origin).send().await.expect("the product answers");
    let (status, headers) = (answer.status(), answer.headers().clone());
    let body = answer.text().await.expect("the body arrives");
    (status, headers, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

/// What a browser asks before a request that a plain form could not make.
fn preflight(method: &str, path: &str) -> RequestBuilder {
    let asked = "authorization,content-type,idempotency-key,x-tenant-id,x-consistency-token,x-request-id,last-event-id";
    Product::shared()
        .request(Method::OPTIONS, path)
        .header("Access-Control-Request-Method", method)
        .header("Access-Control-Request-Headers", asked)
}

/// The members of a header that holds a list, in lower case.
fn listed(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter().map(|value| value.to_str().expect("text").to_ascii_lowercase());
    values.flat_map(|value| value.split(',').map(|one| one.trim().to_owned()).collect::<Vec<_>>()).collect()
}

fn names_cors(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with("access-control-"))
}

/// Whether a browser hands the answer to the page, which sent credentials.
fn is_readable(headers: &HeaderMap) -> bool {
    headers.get("access-control-allow-origin").is_some_and(|origin| origin == LISTED)
        && headers.get("access-control-allow-credentials").is_some_and(|allowed| allowed == "true")
        && listed(headers, "vary").contains(&"origin".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_page_is_told_beforehand_what_it_may_do_and_needs_no_token_for_that() {
    for (method, path) in [
        ("POST", "/v1/auth/login"),
        ("POST", "/v1/stream-tickets"),
        ("POST", "/graphql"),
        ("GET", "/v1/events/stream"),
        ("PATCH", "/v1/users/1"),
        ("DELETE", "/v1/service-tokens/1"),
        ("PUT", "/v1/nowhere"),
    ] {
        let (status, headers, _) = answer(preflight(method, path), LISTED).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        assert!(is_readable(&headers), "{path}: {headers:?}");
        assert!(listed(&headers, "access-control-allow-methods").contains(&method.to_ascii_lowercase()));
        let allowed = listed(&headers, "access-control-allow-headers");
        for name in [
            "authorization",
            "content-type",
            "idempotency-key",
            "x-tenant-id",
            "last-event-id",
            "traceparent",
        ] {
            assert!(allowed.contains(&name.to_owned()), "{name} of {allowed:?}");
        }
        assert!(!allowed.contains(&"*".to_owned()), "not with credentials");
        assert_eq!(headers["access-control-max-age"], "3600");
        assert!(headers.contains_key("x-request-id") && headers["x-content-type-options"] == "nosniff");
    }
    for origin in OTHERS {
        let (status, headers, _) = answer(preflight("POST", "/v1/auth/login"), origin).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{origin}: it is no request that is known");
        assert!(!names_cors(&headers), "{origin}: {headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_page_reads_answers_and_problems_and_another_one_neither() {
    let tenant = Product::shared().tenant().await;
    let anonymous = |method, path: &str| tenant.anonymous(method, path);
    let requests: [(u16, Box<dyn Fn() -> RequestBuilder + '_>); 6] = [
        (200, Box::new(|| tenant.admin(Method::GET, "/v1/auth/me"))),
        (200, Box::new(|| tenant.admin(Method::POST, "/graphql").json(&json!({"query": "{ me { id } }"})))),
        (401, Box::new(|| anonymous(Method::GET, "/v1/auth/me"))),
        (404, Box::new(|| anonymous(Method::GET, "/v1/nowhere"))),
        (405, Box::new(|| anonymous(Method::DELETE, "/v1/auth/login"))),
        (422, Box::new(|| anonymous(Method::POST, "/v1/auth/register").json(&json!({"email": "x"})))),
    ];
    for (expected, request) in &requests {
        let (status, headers, body) = answer(request(), LISTED).await;
        assert_eq!(status.as_u16(), *expected, "{body}");
        assert!(is_readable(&headers), "{expected}: {headers:?}");
        let exposed = listed(&headers, "access-control-expose-headers");
        for name in ["x-request-id", "retry-after"] {
            assert!(exposed.contains(&name.to_owned()), "{name} of {exposed:?}");
        }
        if *expected >= 400 {
            assert_eq!(body["request_id"], headers["x-request-id"].to_str().expect("text"));
        }
        for origin in OTHERS {
            let (status, headers, _) = answer(request(), origin).await;
            assert_eq!(status.as_u16(), *expected, "it is answered like any client");
            assert!(!names_cors(&headers), "{origin}: {headers:?}");
            assert!(listed(&headers, "vary").contains(&"origin".to_owned()));
        }
    }
    let none = tenant.admin(Method::GET, "/v1/auth/me").send().await.expect("answers");
    assert!(!names_cors(none.headers()), "no page asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_page_gets_a_ticket_and_follows_the_log() {
    let tenant = Product::shared().tenant().await;
    let path = "/v1/events/stream";
    let request = tenant.admin(Method::POST, "/v1/stream-tickets").json(&json!({"path": path}));
    let (status, headers, body) = answer(request, LISTED).await;
    assert!(status == StatusCode::CREATED && is_readable(&headers), "{body}");
    let ticket = body["ticket"].as_str().expect("a ticket").to_owned();
    // What an `EventSource` with credentials sends.
    let open = |origin: &'static str| {
        let url = tenant.product.url(&format!("{path}?ticket={ticket}&after=0"));
        Client::new().get(url).header("Accept", "text/event-stream").header("Origin", origin).send()
    };
    let mut stream = open(LISTED).await.expect("answers");
    assert_eq!(
        (stream.status(), stream.headers()["content-type"].as_bytes()),
        (StatusCode::OK, &b"text/event-stream"[..])
    );
    assert!(is_readable(stream.headers()), "{:?}", stream.headers());
    let mut text = String::new();
    while !text.contains("\ndata: ") {
        let chunk = stream.chunk().await.expect("it goes on").expect("it does not end");
        text.push_str(std::str::from_utf8(&chunk).expect("text"));
    }
    assert!(text.contains(&format!("\"tenantid\":\"{}\"", tenant.slug)), "{text}");
    let used = open(LISTED).await.expect("answers");
    assert!(
        used.status() == StatusCode::UNAUTHORIZED && is_readable(used.headers()),
        "the page learns that it is used"
    );
}

/// What the activity log tells of refusals.
async fn refusals(tenant: &Tenant<'_>) -> Vec<Value> {
    let (status, body) = send(tenant.admin(Method::GET, "/v1/activities?kind=refusal")).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body["activities"].as_array().expect("entries").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_page_asks_beforehand_is_no_refusal() {
    let tenant = Product::shared().tenant().await;
    for path in ["/v1/events", "/v1/auth/login", "/v1/users"] {
        answer(preflight("GET", path).header("X-Tenant-ID", &tenant.slug), LISTED).await;
    }
    // A refusal that comes later is told, and nothing before it.
    tenant.register("ada@example.com", "Ada").await;
    let member = tenant.login("ada@example.com").await;
    let request = tenant.product.request(Method::GET, "/v1/events").bearer_auth(&member);
    assert_eq!(answer(request, LISTED).await.0, StatusCode::FORBIDDEN);
    let told = eventually("the refusal is told", || async {
        Some(refusals(&tenant).await).filter(|told| !told.is_empty())
    });
    assert_eq!(told.await.len(), 1);
}
