//! What is no HTTP, or not as RFC 9112 has it, is answered with a problem and ends the connection.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::Product;
use crate::support::raw_http::{connect, exchange};

/// The status, the header lines and the problem of the last answer.
fn problem(answer: &str) -> (u16, String, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
    let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    (status, head.to_ascii_lowercase(), body)
}

async fn assert_refused(request: &[u8], status: u16, code: &str) {
    let shown = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
    let answer = exchange(Product::shared(), request).await;
    assert!(!answer.is_empty(), "no answer to {shown}");
    let (given, head, body) = problem(&answer);
    assert_eq!((given, body["code"].as_str()), (status, Some(code)), "{shown}: {answer}");
    assert_eq!(body["status"], status, "{shown}");
    assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{shown}: {answer}");
    assert!(head.contains("\r\ncontent-type: application/problem+json"), "{shown}: {answer}");
    assert!(head.contains("\r\nconnection: close"), "{shown}: {answer}");
    assert!(head.contains("\r\nx-request-id: "), "{shown}: {answer}");
    assert!(head.contains("\r\nx-content-type-options: nosniff"), "{shown}: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_parsed_is_a_problem() {
    let requests: [&[u8]; 13] = [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a client that speaks TLS\r\n\r\n",
        b"GET /v1/events?type=crm.> HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /<tag> HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX : space before the colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: \x01\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: +1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ];
    for request in requests {
        assert_refused(request, 400, "bad_request").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large_are_a_problem() {
    let fields = |count: usize| {
        let fields = "X: 1\r\n".repeat(count);
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
    };
    assert_refused(fields(100).as_bytes(), 431, "headers_too_large").await;
    let long =
        |bytes: usize| format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(bytes));
    assert_refused(long(32 * 1024).as_bytes(), 431, "headers_too_large").await;
    assert_refused(long(2 * 1024 * 1024).as_bytes(), 431, "headers_too_large").await;
    let target = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(40_000));
    assert_refused(target.as_bytes(), 431, "headers_too_large").await;

    // What is within the limits is answered as usual.
    for within in [fields(97), long(30 * 1024)] {
        let within = within.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        let (status, _, body) = problem(&exchange(Product::shared(), within.as_bytes()).await);
        assert_eq!((status, body["code"].as_str()), (404, Some("not_found")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_one_host() {
    for lines in [
        "",
        "Host: localhost\r\nHost: localhost\r\n",
        "Host: localhost\r\nhost: other.example\r\n",
        "Host:\r\n",
        "Host: localhost, other.example\r\n",
        "Host: user@localhost\r\n",
        "Host: localhost/path\r\n",
        "Host: localhost:port\r\n",
        "Host: localhost:99999\r\n",
    ] {
        let request = format!("GET /.well-known/jwks.json HTTP/1.1\r\n{lines}\r\n");
        assert_refused(request.as_bytes(), 400, "bad_request").await;
    }
    let twice = b"GET /.well-known/jwks.json HTTP/1.0\r\nHost: localhost\r\nHost: localhost\r\n\r\n";
    assert_refused(twice, 400, "bad_request").await;
    let absolute = b"GET http://user@localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_refused(absolute, 400, "bad_request").await;

    for served in [
        "GET /.well-known/jwks.json HTTP/1.0\r\n\r\n",
        "GET /.well-known/jwks.json HTTP/1.1\r\nHost: [::1]:8080\r\nConnection: close\r\n\r\n",
        "GET http://localhost:1/.well-known/jwks.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ] {
        let answer = exchange(Product::shared(), served.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") || answer.starts_with("HTTP/1.0 200 OK\r\n"),
            "{answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_of_an_absolute_target_names_the_tenant() {
    let product = Product::shared();
    let tenant = product.tenant().await;
    let ask = async |target: &str, host: &str| {
        let body = r#"{"email":"nobody@example.com","password":"wrong wrong wrong"}"#;
        let request = format!(
            "POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (status, _, body) = problem(&exchange(product, request.as_bytes()).await);
        (status, body["code"].as_str().expect("a code").to_owned())
    };
    let (ours, unknown) = (format!("{}.localhost", tenant.slug), "no-such-tenant.localhost");
    let refused = (401, "invalid_credentials".to_owned());
    assert_eq!(ask("/v1/auth/login", &ours).await, refused);
    assert_eq!(ask(&format!("http://{ours}/v1/auth/login"), unknown).await, refused);
    let absolute = format!("http://{unknown}/v1/auth/login");
    assert_eq!(ask(&absolute, &ours).await, (404, "tenant_unknown".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_an_ambiguous_length_is_not_read_as_a_request() {
    let smuggled = b"POST /v1/auth/login HTTP/1.1\r\nHost: localhost\r\nX-Tenant-ID: demo\r\n\
        Content-Type: application/json\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
        2\r\n{}\r\n0\r\n\r\nGET /.well-known/jwks.json HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = exchange(Product::shared(), smuggled).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(answer.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");

    for body in ["x\r\n{}\r\n0\r\n\r\n", "2\r\n{}XX0\r\n\r\n", "ffffffffffffffffff\r\n{}"] {
        let request = format!(
            "POST /v1/auth/login HTTP/1.1\r\nHost: localhost\r\nX-Tenant-ID: demo\r\n\
             Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        );
        let (status, head, _) = problem(&exchange(Product::shared(), request.as_bytes()).await);
        assert_eq!(status, 400, "{body:?}");
        assert!(head.contains("\r\nconnection: close"), "{body:?}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_before_the_body_is_read_keeps_the_connection_or_says_that_it_does_not() {
    let request = |length: usize, more: &str| {
        format!(
            "POST /v1/service-tokens HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n{more}\r\n"
        )
    };
    // A small body is read and thrown away: the connection serves on.
    let mut connection = connect(Product::shared(), Ipv4Addr::LOCALHOST).await;
    for _ in 0..2 {
        connection.write_all(request(20_000, "").as_bytes()).await.expect("sent");
        connection.write_all(&vec![b' '; 20_000]).await.expect("sent");
        let answer = one_answer(&mut connection).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert!(!answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    }
    // One that is too large, that never comes, or that waits to be asked for is not.
    let large = [request(3_000_000, "").into_bytes(), vec![b' '; 3_000_000]].concat();
    let missing = request(20_000, "").into_bytes();
    let expecting = request(20_000, "Expect: 100-continue\r\n").into_bytes();
    for refused in [large, missing, expecting] {
        let answer = exchange(Product::shared(), &refused).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert!(answer.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");
    }
}

/// The head and the body of one answer of a connection that stays open.
async fn one_answer(connection: &mut tokio::net::TcpStream) -> String {
    let mut answer = Vec::new();
    let complete = |answer: &[u8]| {
        let text = std::str::from_utf8(answer).expect("text");
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length =
            head.to_ascii_lowercase().split_once("content-length: ")?.1.lines().next()?.parse().ok()?;
        (body.len() >= length).then_some(())
    };
    while complete(&answer).is_none() {
        let more = tokio::time::timeout(Duration::from_secs(10), connection.read_buf(&mut answer)).await;
        assert_ne!(more.expect("in time").expect("no reset"), 0, "closed");
    }
    String::from_utf8(answer).expect("text")
}
