//! What answers cost the process in memory, and that it gives it back.

use futures::StreamExt;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::raw_http::start;
use crate::support::services::{ACCOUNT, OPENED, Service, customer_schema};

const EVENTS: usize = 400;
const EVENT_BYTES: usize = 60_000;
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The memory of a process that is in the machine's memory, without its files.
pub fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_read_a_large_log_by_pages_cost_little_memory() {
    let product = start(&[]);
    let tenant = product.tenant().await;
    let service = Service::loyalty(&tenant).await;
    assert_eq!(service.register(OPENED, customer_schema()).await.0, StatusCode::CREATED);
    let events: Vec<Value> = vec![json!({"type": OPENED, "data": {"customer": "c".repeat(EVENT_BYTES)}}); 4];
    let body = json!({ "events": events });
    let stream = format!("{ACCOUNT}/large");
    let mut appended = futures::stream::iter(0..EVENTS / 4)
        .map(|_| service.append(&stream, body.clone()))
        .buffer_unordered(8);
    while let Some((status, answer)) = appended.next().await {
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }

    let pid = product.annals.pid();
    let before = eventually("memory is quiet", async || quiet(pid).await).await;
    let mut peak = before;
    let reading = join_all((0..8).map(|_| read_log(&service)));
    tokio::pin!(reading);
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(10));
    let all = loop {
        tokio::select! {
            all = &mut reading => break all,
            _ = ticks.tick() => peak = peak.max(resident_kib(pid)),
        }
    };
    for (largest, positions) in &all {
        assert_eq!(positions.len(), EVENTS);
        assert!(positions.is_sorted_by(|a, b| a < b), "each once and in order");
        assert!(*largest <= PAGE_BYTES_MAX + 1_000, "a page has {largest} bytes");
    }
    let cost = peak.saturating_sub(before) / 1_024;
    println!("before {} MiB, with eight clients {cost} MiB more", before / 1_024);
    assert!(cost <= 16, "eight clients cost {cost} MiB");
    eventually("memory falls back", async || (resident_kib(pid) <= before + 4 * 1_024).then_some(())).await;
    println!("afterwards {} MiB", resident_kib(pid) / 1_024);

    // A stream's own pages have the same bounds.
    let (mut next, mut versions) = (json!(1), 0);
    while !next.is_null() {
        let path = format!("/v1/streams/{stream}/events?from_version={next}&limit=1000");
        let (bytes, page) = page(&service, &path).await;
        assert!(bytes <= PAGE_BYTES_MAX + 1_000, "a page has {bytes} bytes");
        for event in page["events"].as_array().expect("events") {
            versions += 1;
            assert_eq!(event["streamversion"], versions.to_string());
        }
        next = page["next_from_version"].clone();
    }
    assert_eq!(versions, EVENTS);
}

/// The memory of a process that did not change by more than a little for a second.
async fn quiet(pid: u32) -> Option<u64> {
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
    let first = resident_kib(pid);
    for _ in 0..10 {
        ticks.tick().await;
        if resident_kib(pid).abs_diff(first) > 512 {
            return None;
        }
    }
    Some(first)
}

/// The largest page in bytes, and the positions of all events of the service's type.
async fn read_log(service: &Service<'_>) -> (usize, Vec<u64>) {
    let (mut largest, mut positions, mut after) = (0, Vec::new(), 0);
    loop {
        let path = format!("/v1/events?type=ext.>&limit=1000&after={after}").replace('>', "%3E");
        let (bytes, page) = page(service, &path).await;
        largest = largest.max(bytes);
        for event in page["events"].as_array().expect("events") {
            positions
                .push(event["position"].as_str().and_then(|text| text.parse().ok()).expect("a position"));
        }
        after = page["next_after"].as_u64().expect("a position");
        if page["next_after"] == page["head"] {
            return (largest, positions);
        }
    }
}

async fn page(service: &Service<'_>, path: &str) -> (usize, Value) {
    let answer = service.request(Method::GET, path).send().await.expect("it answers");
    assert_eq!(answer.status(), StatusCode::OK);
    let body = answer.bytes().await.expect("the whole body");
    (body.len(), serde_json::from_slice(&body).expect("JSON"))
}
