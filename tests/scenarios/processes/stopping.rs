//! A process that is told to stop while a request is under way: what the request comes to is kept.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::postgres::free_port;
use crate::support::product::send;
use crate::support::{Product, eventually, process};

/// Reads until the text has come.
async fn until(socket: &mut TcpStream, wanted: &str) -> String {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains(wanted) {
        let read = socket.read(&mut buffer).await.expect("reads");
        assert!(read > 0, "the connection ended behind {text}");
        text.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_comes_to_while_the_process_stops_is_told() {
    let product = Product::shared();
    let tenant = product.tenant().await;
    let address = format!("127.0.0.1:{}", free_port());
    let mut serve = process::command();
    serve.args(["--config", &product.annals.settings(), "serve", "--roles", "gateway"]);
    serve.env("ANNALS__GATEWAY__PUBLIC_ADDRESS", &address);
    for listener in ["OPERATIONS", "ADMIN"] {
        serve.env(format!("ANNALS__GATEWAY__{listener}_ADDRESS"), "127.0.0.1:0");
    }
    serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = serve.spawn().expect("the binary runs");
    let mut log = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let is_running = |line: Result<String, _>| line.is_ok_and(|line| line.contains("\"running\""));
    assert!(log.any(is_running), "it says that it runs");

    let body = json!({"email": "nobody@example.com", "password": "not the password"}).to_string();
    let (first, rest) = body.split_at(10);
    let mut socket = TcpStream::connect(&address).await.expect("connects");
    let head = format!(
        "POST /v1/auth/login HTTP/1.1\r\nHost: {address}\r\nX-Tenant-ID: {}\r\nX-Request-Id: late-1\r\n\
         Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        tenant.slug,
        body.len(),
    );
    socket.write_all(head.as_bytes()).await.expect("sent");
    // Said when the handler asks for the body.
    until(&mut socket, "100 Continue").await;
    socket.write_all(first.as_bytes()).await.expect("sent");
    process::send(child.id(), Signal::SIGTERM);
    eventually("it takes no more connections", || async {
        TcpStream::connect(&address).await.is_err().then_some(())
    })
    .await;
    socket.write_all(rest.as_bytes()).await.expect("sent");
    assert!(until(&mut socket, "\r\n\r\n").await.contains("HTTP/1.1 401"));
    assert!(child.wait().expect("it is our child").success());

    let (status, page) = send(tenant.admin(Method::GET, "/v1/activities?kind=sign_in")).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    let entries = page["activities"].as_array().expect("entries");
    let late: Vec<&Value> = entries.iter().filter(|entry| entry["request_id"] == "late-1").collect();
    assert_eq!(late.len(), 1, "{entries:?}");
    assert_eq!(late[0]["outcome"], "invalid_credentials");
}
