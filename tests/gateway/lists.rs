//! What lists show, and how they travel.

use std::io::Read;

use flate2::read::GzDecoder;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::support::product::{Product, send};

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_users_holds_what_was_recorded_before_the_request() {
    let tenant = Product::shared().tenant().await;
    for number in 0..10 {
        let user = json!({"email": format!("u{number}@example.com"), "name": "U", "roles": ["member"]});
        let (status, added) = send(tenant.admin(Method::POST, "/v1/users").json(&user)).await;
        assert_eq!(status, StatusCode::CREATED, "{added}");
        let (_, listed) = send(tenant.admin(Method::GET, "/v1/users?limit=100")).await;
        let users = listed["users"].as_array().expect("users");
        assert!(users.contains(&added["user"]), "{number}: {listed}");
        let token = added["consistency_token"].as_str().expect("a token");
        let list = tenant.admin(Method::GET, "/v1/users?limit=100").header("x-consistency-token", token);
        assert_eq!(send(list).await.1["users"].as_array().map(Vec::len), Some(number + 2));
    }
    let forged = tenant.admin(Method::GET, "/v1/users").header("x-consistency-token", "forged");
    assert_eq!(send(forged).await.1["code"], "bad_request");
    let (_, rest) = send(tenant.admin(Method::GET, "/v1/users?limit=100")).await;
    let query = "{ users(first: 100) { edges { node { id version } } } }";
    let graph = tenant.graphql(query, json!({})).await;
    let mut of_graph: Vec<(Value, Value)> = graph["users"]["edges"]
        .as_array()
        .expect("edges")
        .iter()
        .map(|edge| (edge["node"]["id"].clone(), edge["node"]["version"].clone()))
        .collect();
    of_graph.sort_by_key(|(id, _)| id.to_string());
    let users = rest["users"].as_array().expect("users").iter();
    let of_rest: Vec<_> =
        users.map(|user| (user["id"].clone(), json!(user["version"].to_string()))).collect();
    assert_eq!(of_rest, of_graph, "REST and GraphQL show the same rows");
}

async fn encoded(request: reqwest::RequestBuilder) -> Response {
    request.header("accept-encoding", "gzip").send().await.expect("an answer")
}

fn encoding(response: &Response) -> Option<&str> {
    response.headers().get("content-encoding").map(|value| value.to_str().expect("ASCII"))
}

#[tokio::test(flavor = "multi_thread")]
async fn long_answers_are_compressed_for_clients_that_accept_it() {
    let tenant = Product::shared().tenant().await;
    for number in 0..10 {
        let user = json!({"email": format!("u{number}@example.com"), "name": "U", "roles": ["member"]});
        assert_eq!(send(tenant.admin(Method::POST, "/v1/users").json(&user)).await.0, StatusCode::CREATED);
    }
    let path = "/v1/users?limit=100";
    let (_, plain) = send(tenant.admin(Method::GET, path)).await;
    let response = encoded(tenant.admin(Method::GET, path)).await;
    assert_eq!(encoding(&response), Some("gzip"));
    let varies =
        |value: &reqwest::header::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"accept-encoding");
    assert!(response.headers().get_all("vary").iter().any(varies), "{:?}", response.headers());
    assert!(response.headers().contains_key("x-request-id"));
    let bytes = response.bytes().await.expect("a body");
    let mut text = String::new();
    GzDecoder::new(&bytes[..]).read_to_string(&mut text).expect("gzip");
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), plain);
    assert!(bytes.len() < text.len());

    let query = json!({"query": "{ users(first: 100) { edges { node { id email name version } } } }"});
    assert_eq!(encoding(&encoded(tenant.admin(Method::POST, "/graphql").json(&query)).await), Some("gzip"));
    // The problem of a route that is not there is short.
    assert_eq!(encoding(&encoded(tenant.admin(Method::GET, "/v1/none")).await), None);
    let head = encoded(tenant.admin(Method::HEAD, path)).await;
    assert_eq!(head.status(), StatusCode::OK);
    assert!(head.bytes().await.expect("a body").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_to_writes_and_streams_of_events_are_sent_as_they_are() {
    let tenant = Product::shared().tenant().await;
    let long = "x".repeat(2_000);
    let token = json!({"name": long, "scopes": ["events:read"], "expires_days": 1});
    assert_eq!(encoding(&encoded(tenant.admin(Method::POST, "/v1/service-tokens").json(&token)).await), None);
    // The answer repeats the schema, so that it is long enough to be compressed.
    let schema = json!({"schema": {"type": "object", "description": long}});
    let path = "/v1/event-types/ext.loyalty.account.opened.v1";
    let put = encoded(tenant.admin(Method::PUT, path).json(&schema)).await;
    assert_eq!((put.status(), encoding(&put)), (StatusCode::CREATED, None));
    assert!(put.bytes().await.expect("a body").len() > 2_000);
    assert_eq!(encoding(&encoded(tenant.admin(Method::GET, path)).await), Some("gzip"));
    let stream = encoded(tenant.admin(Method::GET, "/v1/events/stream?after=0")).await;
    assert_eq!((stream.status(), encoding(&stream)), (StatusCode::OK, None));
}
