//! Connections that say little or nothing take no service from others, and end.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::future::join_all;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use reqwest::{Method, RequestBuilder, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::raw_http::{ATTACKER, client_of, connect, metric, rest_of, start};
use crate::support::{Product, eventually};

const HALF_A_HEAD: &[u8] = b"GET /v1/auth/me HTTP/1.1\r\nHost: localhost\r\nX-Slow: ";
const PUBLIC: &str = "annals_connections{listener=\"public\"}";

/// The median time of some requests, each on a connection of its own. Making a client is no part of the time.
async fn median(request: impl Fn() -> RequestBuilder) -> Duration {
    let mut took = Vec::new();
    for _ in 0..9 {
        let request = request();
        let begun = Instant::now();
        assert_eq!(request.send().await.expect("it answers").status(), StatusCode::OK);
        took.push(begun.elapsed());
    }
    took.sort();
    took[took.len() / 2]
}

async fn medians(product: &Product) -> [Duration; 2] {
    let livez = format!("{}/livez", product.annals.text("operations_url"));
    let probe = median(|| reqwest::Client::new().get(&livez));
    let signed_in =
        median(|| product.request(Method::GET, "/v1/auth/me").bearer_auth(product.access_token()));
    [probe.await, signed_in.await]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_hold_up_nobody_and_are_closed() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("readable");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the soft limit may be raised");
    let settings = [
        ("MAX_CONNECTIONS_PER_ADDRESS", "2000"),
        ("HEADER_TIMEOUT_SECONDS", "15"),
        ("KEEP_ALIVE_TIMEOUT_SECONDS", "3"),
    ];
    let product = start(&settings);
    let resident = resident_kib(&product);
    let begun = Instant::now();
    let mut attack: Vec<TcpStream> = join_all((0..2_000).map(async |_| {
        let mut connection = connect(&product, ATTACKER).await;
        connection.write_all(HALF_A_HEAD).await.expect("sent");
        connection
    }))
    .await;
    eventually("all are held", async || (metric(&product, PUBLIC).await >= 2_000.0).then_some(())).await;
    let each = resident_kib(&product).saturating_sub(resident) / 2_000;
    // Looked at until the machine is quiet enough to tell.
    let quick = async || {
        let [probe, signed_in] = medians(&product).await;
        println!("2,000 half-open connections of {each} KiB: livez {probe:?}, signed in {signed_in:?}");
        probe.max(signed_in) < Duration::from_millis(100)
    };
    while !quick().await {
        assert!(begun.elapsed() < Duration::from_secs(14), "answers take too long");
    }
    assert!(metric(&product, PUBLIC).await >= 2_000.0, "measured while they were held");
    assert!(each <= 32, "a half-open connection takes {each} KiB");

    let answers = join_all(attack.iter_mut().map(rest_of)).await;
    for answer in answers {
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
        assert!(
            answer.contains("\r\nconnection: close\r\n") && answer.contains("\"code\":\"request_timeout\"")
        );
    }
    eventually("none is held", async || (metric(&product, PUBLIC).await < 50.0).then_some(())).await;

    // Idle after an answer, and silent from the beginning.
    let mut idle = connect(&product, ATTACKER).await;
    let mut silent = connect(&product, ATTACKER).await;
    for _ in 0..3 {
        idle.write_all(b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .expect("sent");
        let mut answer = vec![0; 16 * 1024];
        let length = idle.read(&mut answer).await.expect("kept alive");
        assert!(answer[..length].starts_with(b"HTTP/1.1 200 OK"));
    }
    let begun = Instant::now();
    assert_eq!(rest_of(&mut idle).await, "", "closed without a word");
    assert!(begun.elapsed() > Duration::from_secs(2), "not before its time");
    assert_eq!(rest_of(&mut silent).await, "");
}

fn resident_kib(product: &Product) -> u64 {
    super::memory::resident_kib(product.annals.pid())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_have_limits_by_address_and_in_all() {
    let product = start(&[("MAX_CONNECTIONS", "40"), ("MAX_CONNECTIONS_PER_ADDRESS", "30")]);
    let refused =
        |reason: &str| format!("annals_connections_refused_total{{listener=\"public\",reason=\"{reason}\"}}");
    let mut held: Vec<TcpStream> = Vec::new();
    for _ in 0..30 {
        held.push(connect(&product, ATTACKER).await);
    }
    eventually("they are held", async || (metric(&product, PUBLIC).await >= 30.0).then_some(())).await;
    let answer = rest_of(&mut connect(&product, ATTACKER).await).await;
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    assert!(answer.contains("\"code\":\"unavailable\"") && answer.contains("retry-after"), "{answer}");
    assert!(metric(&product, &refused("address")).await >= 1.0);
    let others = product.request(Method::GET, "/v1/auth/me").bearer_auth(product.access_token());
    assert_eq!(others.send().await.expect("it answers").status(), StatusCode::OK);

    // Another address takes the rest.
    let another = Ipv4Addr::new(127, 0, 0, 3);
    for _ in 0..10 {
        held.push(connect(&product, another).await);
    }
    eventually("the listener is full", async || {
        let mut further = connect(&product, Ipv4Addr::new(127, 0, 0, 4)).await;
        let is_refused = async {
            let mut first = [0; 12];
            further.read_exact(&mut first).await.is_ok_and(|_| &first == b"HTTP/1.1 503")
        };
        tokio::time::timeout(Duration::from_millis(200), is_refused).await.unwrap_or(false).then_some(())
    })
    .await;
    assert!(metric(&product, &refused("total")).await >= 1.0);
    let livez = format!("{}/livez", product.annals.text("operations_url"));
    assert_eq!(client_of(ATTACKER).get(livez).send().await.expect("it answers").status(), StatusCode::OK);

    held.clear();
    eventually("there is room again", async || {
        let request = product.request(Method::GET, "/.well-known/jwks.json").send().await;
        request.is_ok_and(|answer| answer.status() == StatusCode::OK).then_some(())
    })
    .await;
}

/// Sets the limit of open files of a running process.
fn limit_files(pid: u32, limit: usize) {
    let set =
        Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--nofile={limit}:")]).status();
    assert!(set.expect("prlimit runs").success());
}

/// The lowest descriptor that a process does not have open.
fn lowest_free_descriptor(pid: u32) -> usize {
    (0..100_000)
        .find(|number| !std::fs::exists(format!("/proc/{pid}/fd/{number}")).expect("readable"))
        .expect("one")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_answered_when_the_process_has_no_descriptors_left() {
    const ERRORS: &str = "annals_accept_errors_total{listener=\"public\"}";
    let product = start(&[]);
    let pid = product.annals.pid();
    // One that is connected already; everything it takes to answer is open.
    let livez = format!("{}/livez", product.annals.text("operations_url"));
    let jwks = || {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(1)).build().expect("a client");
        let request = client.get(product.url("/.well-known/jwks.json"));
        async { request.send().await.ok().map(|answer| answer.status()) }
    };
    assert_eq!(jwks().await, Some(StatusCode::OK));
    // Nothing below the limit is free, so no descriptor can be opened any more.
    limit_files(pid, lowest_free_descriptor(pid));
    let waiting = connect(&product, ATTACKER).await;
    for _ in 0..3 {
        let probe = reqwest::Client::new().get(&livez).send().await.expect("a probe is answered");
        assert_eq!(probe.status(), StatusCode::OK);
    }
    eventually("failed accepts are counted", async || (metric(&product, ERRORS).await >= 1.0).then_some(()))
        .await;
    assert!(product.annals.logged().contains("a connection cannot be accepted"));
    limit_files(pid, 4_096);
    eventually("the public listener goes on", async || jwks().await).await;
    drop(waiting);
}
