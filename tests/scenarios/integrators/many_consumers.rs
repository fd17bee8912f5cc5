//! Five thousand idle and five hundred busy followers of one process, for ten minutes (`ANNALS_TEST_SECONDS`): nobody
//! misses an event, nobody is dropped, and the process's memory stays where it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_util::task::AbortOnDropHandle;

use crate::support::integration_site::Site;
use crate::support::{eventually, long};

const IDLE: usize = 5_000;
const BUSY: usize = 500;
const IDLE_TENANTS: usize = 20;
/// Events of the busy tenant: each goes to every busy follower.
const BATCH: usize = 4;
const EVERY: Duration = Duration::from_millis(200);
/// Connections being opened at a time.
const OPENING: usize = 50;
/// Time until buffers and caches have the size that they keep.
const WARM_UP: f64 = 0.25;

/// What a follower has seen.
#[derive(Default)]
struct Seen {
    /// The last position, where each came right behind the one before.
    position: AtomicU64,
    signs: AtomicU64,
    faults: AtomicU64,
}

impl Seen {
    fn event(&self, position: u64) {
        if self.position.swap(position, Ordering::Relaxed) + 1 != position {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A follower that reads for ever; its end is a fault.
struct Follower {
    seen: Arc<Seen>,
    _reading: AbortOnDropHandle<()>,
}

impl Follower {
    async fn sse(site: &Site, token: &str, after: u64) -> Self {
        let address = site.product.annals.text("gateway_url").trim_start_matches("http://").to_owned();
        let mut connection = TcpStream::connect(&address).await.expect("connects");
        let request = format!(
            "GET /v1/events/stream?after={after} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        connection.write_all(request.as_bytes()).await.expect("sent");
        let mut lines = BufReader::with_capacity(4096, connection);
        let mut line = Vec::new();
        lines.read_until(b'\n', &mut line).await.expect("an answer");
        assert!(line.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&line));
        Self::reading(after, async move |seen| {
            loop {
                line.clear();
                if !matches!(lines.read_until(b'\n', &mut line).await, Ok(1..)) {
                    return;
                }
                // The pieces of the chunked body are whole events, so lines are never torn.
                if let Some(position) = line.strip_prefix(b"id: ") {
                    let text = std::str::from_utf8(position).expect("text");
                    seen.event(text.trim().parse().expect("a position"));
                } else if line.starts_with(b": ") {
                    seen.signs.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    }

    async fn websocket(site: &Site, token: &str, after: u64) -> Self {
        let url = site.product.url(&format!("/v1/events/ws?after={after}")).replacen("http", "ws", 1);
        let mut request = url.into_client_request().expect("a URL");
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
        let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(1024);
        let opened = tokio_tungstenite::connect_async_with_config(request, Some(config), true).await;
        let (mut socket, _) = opened.expect("accepted");
        Self::reading(after, async move |seen| {
            while let Some(Ok(message)) = socket.next().await {
                match message {
                    Message::Text(text) if text.contains("\"type\":\"event\"") => {
                        let (_, rest) = text.rsplit_once("\"position\":\"").expect("a position");
                        let (position, _) = rest.split_once('"').expect("text");
                        seen.event(position.parse().expect("a number"));
                    }
                    Message::Text(_) | Message::Ping(_) => {
                        seen.signs.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => return,
                }
            }
        })
    }

    fn reading<F>(after: u64, read: impl FnOnce(Arc<Seen>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let seen = Arc::new(Seen { position: after.into(), ..Seen::default() });
        let (reading, ended) = (read(Arc::clone(&seen)), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            reading.await;
            ended.faults.fetch_add(1, Ordering::Relaxed);
        });
        Self { seen, _reading: AbortOnDropHandle::new(task) }
    }
}

/// Opens followers, half of each sort where `mixed`, else a fifth of them WebSockets.
async fn open(site: &Site, number: usize, every: usize, places: &[(String, u64)]) -> Vec<Follower> {
    stream::iter(0..number)
        .map(|index| async move {
            let (token, after) = &places[index % places.len()];
            if index % every == 0 {
                Follower::websocket(site, token, *after).await
            } else {
                Follower::sse(site, token, *after).await
            }
        })
        .buffer_unordered(OPENING)
        .collect()
        .await
}

/// Resident memory in MiB and processor time in seconds.
fn usage(pid: u32) -> (f64, f64) {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the process runs");
    let pages: f64 = read("statm").split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number");
    let stat = read("stat");
    let (_, fields) = stat.rsplit_once(") ").expect("the name stands in brackets");
    let ticks: f64 =
        fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("a number")).sum();
    (pages * 4096.0 / 1024.0 / 1024.0, ticks / 100.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_fleet_of_followers_is_served_from_steady_memory() {
    if !long::is_wanted() {
        return;
    }
    let lasts = Duration::from_secs(long::seconds());
    let site = Site::start(&[
        ("ANNALS__GATEWAY__HEARTBEAT_INTERVAL_SECONDS", "15"),
        ("ANNALS__GATEWAY__SLOW_CONSUMER_TIMEOUT_SECONDS", "30"),
        ("ANNALS__IDENTITY__ACCESS_TOKEN_LIFETIME_SECONDS", "3600"),
        ("ANNALS__LOG__LEVEL", "warn"),
    ]);
    let store = site.store().await;
    let mut quiet = Vec::new();
    for _ in 0..IDLE_TENANTS {
        let tenant = site.product.tenant().await;
        crate::support::checker::check(&tenant).await;
        quiet.push((tenant.token.clone(), tenant.events().await.len() as u64));
    }
    let tenant = site.product.tenant().await;
    crate::support::checker::check(&tenant).await;
    let before = tenant.events().await.len() as u64;
    let pid = site.product.annals.pid();
    let (empty, _) = usage(pid);
    let begun = Instant::now();
    let idle = open(&site, IDLE, 5, &quiet).await;
    let busy = open(&site, BUSY, 2, &[(tenant.token.clone(), before)]).await;
    let (opened, processor) = usage(pid);
    println!(
        "{} followers opened in {:.1} s; memory {empty:.0} -> {opened:.0} MiB",
        idle.len() + busy.len(),
        begun.elapsed().as_secs_f64()
    );

    let begun = Instant::now();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut head, mut memory, mut worst) = (before, Vec::new(), 0);
    while begun.elapsed() < lasts {
        ticks.tick().await;
        site.append(&store, &tenant.slug, BATCH, 300).await;
        head += BATCH as u64;
        let at = |follower: &Follower| follower.seen.position.load(Ordering::Relaxed);
        let behind = head - busy.iter().map(at).min().expect("some");
        if begun.elapsed() > lasts.mul_f64(WARM_UP) {
            worst = worst.max(behind);
            memory.push(usage(pid).0);
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    eventually("every busy follower has everything", || async {
        let done = |follower: &Follower| follower.seen.position.load(Ordering::Relaxed) == head;
        busy.iter().all(done).then_some(())
    })
    .await;
    let processor = usage(pid).1 - processor;
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let third = memory.len() / 3;
    let (early, late) = (mean(&memory[..third]), mean(&memory[memory.len() - third..]));
    let drift = (late - early) / early * 100.0;
    let sent = (head - before) * BUSY as u64;
    println!(
        "{sent} deliveries in {seconds:.0} s: {:.0}/s, {:.0} % of a core, worst lag {worst} events; memory {early:.1} -> \
         {late:.1} MiB, drift {drift:+.2} %",
        sent as f64 / seconds,
        processor / seconds * 100.0
    );
    let faults: u64 = idle.iter().chain(&busy).map(|one| one.seen.faults.load(Ordering::Relaxed)).sum();
    assert_eq!(faults, 0, "gaps or ends");
    if seconds > 40.0 {
        assert!(
            idle.iter().all(|one| one.seen.signs.load(Ordering::Relaxed) > 1),
            "an idle stream is silent"
        );
    }
    assert!(drift < 5.0, "memory grows by {drift:.2} %");
    store.shutdown().await;
}
