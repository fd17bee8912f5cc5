//! Server-sent events to five hundred followers of one tenant: `annals dev` brings the servers and the other roles up, the
//! gateway under measurement is a process of its own. Appends go through a store in this process, where the followers
//! live as well, so both cores are shared with them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use schemas::engine::{Actor, EventType, Metadata, StreamName, TenantSlug, ids};
use serde::Serialize;
use store::{ExpectedVersion, NewEvent, StreamAppend, TenantStore};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::payload::payload;
use crate::product::Product;
use crate::usage::{memory_mib, processor_seconds, rounded};

const FOLLOWERS: usize = 500;
/// Events of one append.
const BATCH: u64 = 10;
/// How far appends may be ahead of the slowest follower where the limit is looked for.
const AHEAD: u64 = 100;
const LIMIT: Duration = Duration::from_secs(15);
/// The share of the limit at which latencies are measured.
const SHARE: f64 = 0.5;
const PACED: Duration = Duration::from_secs(30);
/// Latencies above this count as this, in microseconds.
const LONGEST: u64 = 60_000_000;
/// Events of the whole run, at most.
const MOST: usize = 1 << 20;

#[derive(Serialize)]
pub struct Fanout {
    followers: usize,
    event_bytes: usize,
    /// Appends wait for the slowest follower.
    limit: Phase,
    /// At half of that.
    paced: Phase,
    memory_before_mib: f64,
    memory_with_followers_mib: f64,
    memory_after_mib: f64,
}

#[derive(Serialize)]
struct Phase {
    events_a_second: f64,
    deliveries_a_second: f64,
    /// From the call of the append to the follower.
    p50_ms: f64,
    p99_ms: f64,
    gateway_core_percent: f64,
    /// This process: the followers and the appends.
    clients_core_percent: f64,
}

/// What all followers share.
struct Board {
    start: Instant,
    /// The position before the first of these events.
    base: u64,
    /// When each event's append was called, in microseconds.
    called: Vec<AtomicU64>,
    measuring: AtomicBool,
}

struct Follower {
    position: AtomicU64,
}

pub async fn run() -> anyhow::Result<Fanout> {
    let mut dev = Product::start().await?;
    let gateway = dev.gateway(&[("ANNALS__LOG__LEVEL", "warn")]).await?;
    let pid = gateway.child.id().context("the gateway runs")?;
    let store = dev.store().await?;
    let slug = TenantSlug::parse("demo")?;
    let record = store.tenant_by_slug(&slug).await?.context("the demo tenant is there")?;
    let tenant = store.tenant(record.id);
    let base = settled(&tenant).await?;
    let board = Arc::new(Board {
        start: Instant::now(),
        base,
        called: (0..MOST).map(|_| AtomicU64::new(0)).collect(),
        measuring: AtomicBool::new(false),
    });
    let before = memory_mib(pid);
    let mut reading = JoinSet::new();
    let mut followers = Vec::new();
    let mut histograms = Vec::new();
    for _ in 0..FOLLOWERS {
        let follower = Arc::new(Follower { position: AtomicU64::new(base) });
        let latencies = Arc::new(std::sync::Mutex::new(Histogram::new_with_bounds(1, LONGEST, 3)?));
        let lines = connect(&gateway.address, &dev.token, base).await?;
        reading.spawn(read(lines, Arc::clone(&board), Arc::clone(&follower), Arc::clone(&latencies)));
        followers.push(follower);
        histograms.push(latencies);
    }
    let with_followers = memory_mib(pid);

    let mut load = Load { tenant, board, followers, histograms, pid, head: base };
    load.run(Duration::from_secs(3), None).await?;
    let limit = load.run(LIMIT, None).await?;
    let paced = load.run(PACED, Some(limit.events_a_second * SHARE)).await?;
    let after = memory_mib(pid);
    // Little's law: so many events under way at this rate take so long on average. Far off, the clocks are wrong.
    let expected_ms = AHEAD as f64 / limit.events_a_second * 1_000.0;
    anyhow::ensure!(
        (expected_ms / 10.0..expected_ms * 10.0).contains(&limit.p50_ms),
        "latencies of {} ms do not fit {} events/s with {AHEAD} under way",
        limit.p50_ms,
        limit.events_a_second
    );
    anyhow::ensure!(reading.try_join_next().is_none(), "a follower was dropped");
    reading.shutdown().await;
    store.shutdown().await;
    drop(gateway);
    dev.stop().await?;
    Ok(Fanout {
        followers: FOLLOWERS,
        event_bytes: payload().len(),
        limit,
        paced,
        memory_before_mib: rounded(before, 1),
        memory_with_followers_mib: rounded(with_followers, 1),
        memory_after_mib: rounded(after, 1),
    })
}

/// The end of the log when nothing has been appended for a second.
async fn settled(tenant: &TenantStore) -> anyhow::Result<u64> {
    let mut looks = tokio::time::interval(Duration::from_secs(1));
    let mut before = u64::MAX;
    loop {
        looks.tick().await;
        let head = tenant.head().await?.position;
        if head == before {
            return Ok(head);
        }
        before = head;
    }
}

struct Load {
    tenant: TenantStore,
    board: Arc<Board>,
    followers: Vec<Arc<Follower>>,
    histograms: Vec<Arc<std::sync::Mutex<Histogram<u64>>>>,
    pid: u32,
    head: u64,
}

impl Load {
    /// Appends for so long: at so many events a second, or as quickly as the slowest follower takes them.
    async fn run(&mut self, lasts: Duration, rate: Option<f64>) -> anyhow::Result<Phase> {
        let own = std::process::id();
        let gateway = self.pid;
        let processor = || (processor_seconds(gateway), processor_seconds(own));
        let (begun, first, used) = (Instant::now(), self.head, processor());
        self.board.measuring.store(true, Ordering::Relaxed);
        let mut looks = tokio::time::interval(Duration::from_millis(1));
        while begun.elapsed() < lasts {
            let allowed = match rate {
                Some(rate) => first + (begun.elapsed().as_secs_f64() * rate) as u64,
                None => self.slowest() + AHEAD,
            };
            if self.head + BATCH > allowed {
                looks.tick().await;
                continue;
            }
            self.append().await?;
        }
        while self.slowest() < self.head {
            looks.tick().await;
        }
        let seconds = begun.elapsed().as_secs_f64();
        self.board.measuring.store(false, Ordering::Relaxed);
        let now = processor();
        let mut all = Histogram::new_with_bounds(1, LONGEST, 3)?;
        for one in &self.histograms {
            let mut one = one.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            all.add(&*one)?;
            one.reset();
        }
        let events = (self.head - first) as f64;
        let milliseconds = |quantile: f64| all.value_at_quantile(quantile) as f64 / 1_000.0;
        Ok(Phase {
            events_a_second: rounded(events / seconds, 0),
            deliveries_a_second: rounded(all.len() as f64 / seconds, 0),
            p50_ms: milliseconds(0.5),
            p99_ms: milliseconds(0.99),
            gateway_core_percent: rounded((now.0 - used.0) / seconds * 100.0, 0),
            clients_core_percent: rounded((now.1 - used.1) / seconds * 100.0, 0),
        })
    }

    fn slowest(&self) -> u64 {
        let positions = self.followers.iter().map(|follower| follower.position.load(Ordering::Relaxed));
        positions.min().unwrap_or(self.head)
    }

    async fn append(&mut self) -> anyhow::Result<()> {
        let event_type = EventType::parse("ext.bench.load.recorded.v1")?;
        let event =
            NewEvent { event_id: None, event_type, payload: payload().into(), subject_keys: Vec::new() };
        let append = StreamAppend::new(
            StreamName::new("ext.bench.load", ids::new_id()),
            ExpectedVersion::NoStream,
            vec![event; BATCH as usize],
            Metadata::new(Actor::system("bench"), ids::random_id()),
        );
        // Nobody else appends to this log, so the positions are known.
        let called = self.board.start.elapsed().as_micros() as u64;
        for position in self.head + 1..=self.head + BATCH {
            let slot = self.board.called.get((position - self.board.base) as usize);
            slot.context("too many events")?.store(called, Ordering::Relaxed);
        }
        let receipt = self.tenant.append(append).await?;
        self.head += BATCH;
        anyhow::ensure!(receipt.position == self.head, "somebody else appends");
        Ok(())
    }
}

async fn connect(address: &str, token: &str, after: u64) -> anyhow::Result<BufReader<TcpStream>> {
    let mut connection = TcpStream::connect(address).await?;
    let request = format!(
        "GET /v1/events/stream?after={after} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    connection.write_all(request.as_bytes()).await?;
    let mut lines = BufReader::with_capacity(16 * 1024, connection);
    let mut line = String::new();
    lines.read_line(&mut line).await?;
    anyhow::ensure!(line.starts_with("HTTP/1.1 200"), "refused: {line}");
    Ok(lines)
}

/// Reads for ever; an end or a gap ends the task, which is a failure.
async fn read(
    mut lines: BufReader<TcpStream>,
    board: Arc<Board>,
    follower: Arc<Follower>,
    latencies: Arc<std::sync::Mutex<Histogram<u64>>>,
) {
    let mut line = Vec::new();
    loop {
        line.clear();
        if !matches!(lines.read_until(b'\n', &mut line).await, Ok(1..)) {
            return;
        }
        let Some(position) = line.strip_prefix(b"id: ").and_then(|id| std::str::from_utf8(id).ok()) else {
            continue;
        };
        let Ok(position) = position.trim().parse::<u64>() else { return };
        let before = follower.position.load(Ordering::Relaxed);
        if position == before {
            continue; // a heartbeat
        }
        if position != before + 1 {
            return;
        }
        if board.measuring.load(Ordering::Relaxed) {
            let called = board.called[(position - board.base) as usize].load(Ordering::Relaxed);
            let latency = (board.start.elapsed().as_micros() as u64).saturating_sub(called);
            latencies.lock().unwrap_or_else(std::sync::PoisonError::into_inner).saturating_record(latency);
        }
        follower.position.store(position, Ordering::Relaxed);
    }
}
