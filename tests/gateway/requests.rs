//! How requests are read: query strings, bodies, media types.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::product::{PASSWORD, Product, Tenant, send};

async fn status_of(tenant: &Tenant<'_>, path: &str) -> StatusCode {
    send(tenant.admin(Method::GET, path)).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_and_times_in_a_query_have_one_form() {
    let tenant = Product::shared().tenant().await;
    for path in [
        "/v1/audit/consistency?from=%2B1",
        "/v1/audit/proofs/1?size=%2B1",
        "/v1/audit/export?from=%2B1",
        "/v1/activities?limit=%2B1",
        "/v1/activities?since=%2B12026-01-01T00:00:00Z",
        "/v1/activities?until=-0001-01-01T00:00:00Z",
        "/v1/audit/position?time=%2B99999-01-01T00:00:00Z",
        "/v1/integrations/credentials?after=a%00b",
        "/v1/events?after=",
        "/v1/audit/read-models/customers/changes?from=%2B1",
    ] {
        assert_eq!(status_of(&tenant, path).await, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_ends_with_the_page_names_no_next_one() {
    let tenant = Product::shared().tenant().await;
    for name in ["one", "two"] {
        let token = json!({"name": name, "scopes": ["events:read"], "expires_days": 1});
        let (status, _) = send(tenant.admin(Method::POST, "/v1/service-tokens").json(&token)).await;
        assert_eq!(status, StatusCode::CREATED);
        let webhook = json!({"url": format!("https://hooks.example.com/{name}"), "types": ["crm.>"]});
        let (status, _) = send(tenant.admin(Method::POST, "/v1/webhooks").json(&webhook)).await;
        assert_eq!(status, StatusCode::CREATED);
        let path = format!("/v1/event-types/ext.loyalty.{name}.opened.v1");
        let schema = json!({"schema": {"type": "object"}});
        assert_eq!(send(tenant.admin(Method::PUT, &path).json(&schema)).await.0, StatusCode::CREATED);
    }
    // The administrator is a user as well.
    tenant.register("ada@example.com", "Ada").await;
    for (path, rows) in [
        ("/v1/service-tokens", "service_tokens"),
        ("/v1/webhooks", "webhooks"),
        ("/v1/event-types", "event_types"),
        ("/v1/users", "users"),
    ] {
        let (_, whole) = send(tenant.admin(Method::GET, &format!("{path}?limit=2"))).await;
        assert_eq!(whole[rows].as_array().map(Vec::len), Some(2), "{path}: {whole}");
        assert_eq!(whole["next_after"], Value::Null, "{path}");
        let (_, first) = send(tenant.admin(Method::GET, &format!("{path}?limit=1"))).await;
        let next = first["next_after"].as_str().expect("there is more");
        let (_, second) = send(tenant.admin(Method::GET, &format!("{path}?limit=1&after={next}"))).await;
        assert_eq!(second[rows].as_array().map(Vec::len), Some(1), "{path}: {second}");
        assert_eq!(second["next_after"], Value::Null, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_reader_takes_every_body() {
    let tenant = Product::shared().tenant().await;
    let bodies = [
        ("/v1/webhooks", r#"{"url":"http://127.0.0.1:9/a","url":"http://127.0.0.1:9/b","types":["crm.>"]}"#),
        ("/v1/service-tokens", r#"{"name":"a","name":"b","scopes":["events:read"],"expires_days":1}"#),
        ("/graphql", r#"{"query":"{ me { id } }","query":"{ me { name } }"}"#),
        ("/v1/streams/ext.loyalty.account/1/events", r#"{"events":[],"events":[]}"#),
    ];
    for (path, body) in bodies {
        let request = |content_type: &str| {
            tenant.admin(Method::POST, path).header("content-type", content_type).body(body)
        };
        let (status, answer) = send(request("application/json")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert!(answer["detail"].as_str().expect("a reason").contains("given twice"), "{path}: {answer}");
        let (status, _) = send(request("application/json; charset=latin1")).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{path}");
        let compressed = request("application/json").header("content-encoding", "gzip");
        let (status, answer) = send(compressed).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn graphql_runs_the_one_operation_for_an_empty_name_and_reads_weights() {
    let tenant = Product::shared().tenant().await;
    let body = json!({"query": "query Me { me { email } }", "operationName": ""});
    let (status, answer) = send(tenant.admin(Method::POST, "/graphql").json(&body)).await;
    assert_eq!((status, &answer["errors"]), (StatusCode::OK, &Value::Null), "{answer}");

    let wrong = json!({"query": "{ nothing }"});
    let weighed = |accept: &str| tenant.admin(Method::POST, "/graphql").header("accept", accept).json(&wrong);
    let strict = "application/graphql-response+json";
    assert_eq!(send(weighed(strict)).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(send(weighed(&format!("{strict};q=0, application/json"))).await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn spellings_of_an_address_are_one_person_and_of_a_password_one_password() {
    let tenant = Product::shared().tenant().await;
    let register = |email: &str, password: &str, name: &str| {
        let body = json!({"email": email, "password": password, "name": name});
        send(tenant.anonymous(Method::POST, "/v1/auth/register").json(&body))
    };
    let composed = "pass phrase \u{e9}\u{fb01}";
    let decomposed = "pass phrase e\u{301}fi";
    assert_eq!(register("ada@b\u{fc}cher.example", composed, "Ada").await.0, StatusCode::CREATED);
    for other in ["ada@xn--bcher-kva.example", "\u{ff41}da@b\u{fc}cher.example", "ADA@B\u{dc}CHER.example"] {
        let (status, answer) = register(other, PASSWORD, "Ada").await;
        assert_eq!((status, &answer["code"]), (StatusCode::CONFLICT, &json!("email_taken")), "{other}");
    }
    let login = json!({"email": "ADA@xn--bcher-kva.example", "password": decomposed});
    let (status, answer) = send(tenant.anonymous(Method::POST, "/v1/auth/login").json(&login)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (status, _) = register("invisible@example.com", PASSWORD, "\u{200b}\u{3164}").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_postgresql_cannot_hold_is_no_fault_of_the_server() {
    let tenant = Product::shared().tenant().await;
    for query in [
        r#"{ customers(filter: {name: "a\u0000b"}) { nodes { id } } }"#,
        r#"{ customers(filter: {email: "a\u0000b@example.com"}) { nodes { id } } }"#,
        r#"{ users(filter: {name: "\u0000"}) { nodes { id } } }"#,
    ] {
        let answer = tenant.graphql_as(&tenant.token, query, Value::Null).await;
        let code = &answer["errors"][0]["extensions"]["code"];
        assert!(code.is_null() || code == "BAD_REQUEST", "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_sockets_of_one_address_leave_places_to_others() {
    let product = Product::shared();
    let tenant = product.tenant().await;
    let address = product.url("").replace("http://", "").replace("localhost", "127.0.0.1");
    // From another loopback address than the one that signs in.
    let silent = async || {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.3:0".parse().expect("an address")).expect("binds");
        let stream = socket.connect(address.parse().expect("an address")).await.expect("connects");
        let url = format!("ws://{address}/v1/events/ws");
        tokio_tungstenite::client_async(url, stream).await.map(|(socket, _)| socket)
    };
    let opened = futures::future::join_all((0..300).map(|_| silent())).await;
    let (open, refused): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
    assert!(!open.is_empty() && !refused.is_empty(), "{} {}", open.len(), refused.len());
    // Those are still open, and another address follows its events all the same.
    let url = format!("ws://{address}/v1/events/ws");
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("another address connects");
    let auth = json!({"type": "auth", "token": tenant.token}).to_string();
    futures::SinkExt::send(&mut socket, auth.into()).await.expect("is sent");
    let first = futures::StreamExt::next(&mut socket).await.expect("an answer").expect("a message");
    assert!(first.into_text().expect("text").contains("\"open\""));
    drop(open);
}
