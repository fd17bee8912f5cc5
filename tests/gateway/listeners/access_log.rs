//! What is refused before any handler has its line in the access log, and cannot fill it.

use std::net::Ipv4Addr;
use std::time::Instant;

use futures::future::join_all;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::support::process::{Annals, command};
use crate::support::raw_http::{ATTACKER, connect, exchange, metric, rest_of};
use crate::support::{Product, eventually};

/// Connections of one address; one more is refused.
const CONNECTIONS: usize = 20;
/// Lines for refusals in a second.
const LINES_A_SECOND: u64 = 20;

/// The lines of the access log that tell of refusals.
fn refusals(product: &Product) -> Vec<Value> {
    let log = product.annals.logged();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == "annals::access" && line["refused"].is_string()).collect()
}

/// The line of an answer.
fn line_of(product: &Product, answer: &str) -> Value {
    let head = answer.to_ascii_lowercase();
    let id = head.split("x-request-id: ").nth(1).and_then(|rest| rest.lines().next()).expect("a request id");
    let mut lines = refusals(product).into_iter();
    lines.find(|line| line["span"]["request_id"] == id).unwrap_or_else(|| panic!("no line for {answer}"))
}

async fn refused_connection(product: &Product) -> String {
    rest_of(&mut connect(product, ATTACKER).await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_have_a_line_in_the_access_log_and_cannot_fill_it() {
    let limit = CONNECTIONS.to_string();
    let mut dev = command();
    dev.args(["dev", "--ephemeral"]).env("ANNALS__LOG__FORMAT", "json");
    dev.env("ANNALS__GATEWAY__MAX_CONNECTIONS_PER_ADDRESS", limit);
    dev.env("ANNALS__GATEWAY__HEADER_TIMEOUT_SECONDS", "5");
    let product = Product { annals: Annals::spawn(dev) };

    let line = line_of(&product, &exchange(&product, b"garbage\r\n\r\n").await);
    assert_eq!((&line["status"], &line["refused"]), (&400.into(), &"bad_request".into()), "{line}");
    assert_eq!((&line["listener"], &line["address"]), (&"public".into(), &"127.0.0.1".into()), "{line}");
    assert_eq!((&line["left_out"], &line["method"]), (&0.into(), &Value::Null), "{line}");

    let line = line_of(&product, &exchange(&product, b"GET /v1/events?after=1 HTTP/1.1\r\n\r\n").await);
    assert_eq!((&line["status"], &line["refused"]), (&400.into(), &"bad_request".into()), "{line}");
    assert_eq!((&line["method"], &line["path"]), (&"GET".into(), &"/v1/events".into()), "{line}");

    let large = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(40_000));
    let line = line_of(&product, &exchange(&product, large.as_bytes()).await);
    assert_eq!((&line["status"], &line["refused"]), (&431.into(), &"headers_too_large".into()), "{line}");

    let mut slow = connect(&product, Ipv4Addr::LOCALHOST).await;
    slow.write_all(b"GET / HTTP/1.1\r\nHost: ").await.expect("sent");
    let line = line_of(&product, &rest_of(&mut slow).await);
    assert_eq!((&line["status"], &line["refused"]), (&408.into(), &"request_timeout".into()), "{line}");

    // Bytes that say nothing hold a connection until its time is up.
    let _held = join_all((0..CONNECTIONS).map(|_| connect(&product, ATTACKER))).await;
    eventually("they are held", async || {
        (metric(&product, "annals_connections{listener=\"public\"}").await >= CONNECTIONS as f64)
            .then_some(())
    })
    .await;
    let begun = Instant::now();
    let line = line_of(&product, &refused_connection(&product).await);
    assert_eq!((&line["status"], &line["refused"]), (&503.into(), &"address".into()), "{line}");
    assert_eq!(line["address"], "127.0.0.2", "{line}");

    join_all((0..200).map(|_| refused_connection(&product))).await;
    let counted = async || {
        let mut sum =
            metric(&product, "annals_connections_refused_total{listener=\"public\",reason=\"address\"}")
                .await;
        for status in [400, 408, 431] {
            let name = format!("annals_http_refusals_total{{listener=\"public\",status=\"{status}\"}}");
            sum += metric(&product, &name).await;
        }
        sum as u64
    };
    let lines = eventually("what was left out is told", async || {
        refused_connection(&product).await;
        let lines = refusals(&product);
        let left_out: u64 = lines.iter().filter_map(|line| line["left_out"].as_u64()).sum();
        (left_out > 0 && left_out + lines.len() as u64 == counted().await).then_some(lines)
    })
    .await;
    let flooded = lines.iter().filter(|line| line["refused"] == "address").count() as u64;
    assert!(flooded <= LINES_A_SECOND * (begun.elapsed().as_secs() + 2), "{flooded} lines");
}
