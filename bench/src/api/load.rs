//! The load generator: a closed loop on each connection, or a paced one. It checks every answer. It runs on one thread, so
//! that it takes as little as possible of the cores that it shares with the servers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use hdrhistogram::Histogram;
use memchr::memmem;
use tokio::task::JoinSet;

use super::http::Connection;

/// A request, and what its answer must contain: each text so many times.
pub struct Exchange {
    pub request: Bytes,
    pub expected: Vec<(String, usize)>,
}

/// Makes the requests: from the number of the connection and the number of its turn.
pub type Work = Arc<dyn Fn(usize, usize) -> Exchange + Send + Sync>;

#[derive(Clone)]
pub struct Load {
    /// Host and port.
    pub address: String,
    pub connections: usize,
    pub work: Work,
    /// Maximum requests of one connection.
    pub turns: usize,
    /// Requests a second of all connections; without it each connection sends its next request at once.
    pub pace: Option<f64>,
}

/// What came of a load. Latencies are in microseconds.
pub struct Outcome {
    pub requests: u64,
    pub seconds: f64,
    pub latencies: Histogram<u64>,
}

impl Load {
    /// A closed loop.
    pub fn new(address: &str, connections: usize, work: Work) -> Self {
        Self { address: address.to_owned(), connections, work, turns: usize::MAX, pace: None }
    }

    /// Opens the connections and sends requests for so long. All of them are answered when it returns.
    pub async fn run(&self, lasts: Duration) -> anyhow::Result<Outcome> {
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(Connection::open(&self.address).await?);
        }
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for (index, connection) in connections.into_iter().enumerate() {
            let load = self.clone();
            tasks.spawn(async move { load.one(index, connection, start, start + lasts).await });
        }
        let mut latencies = new_histogram()?;
        while let Some(finished) = tasks.join_next().await {
            latencies.add(finished??)?;
        }
        Ok(Outcome { requests: latencies.len(), seconds: start.elapsed().as_secs_f64(), latencies })
    }

    async fn one(
        &self,
        index: usize,
        mut connection: Connection,
        start: Instant,
        until: Instant,
    ) -> anyhow::Result<Histogram<u64>> {
        let mut latencies = new_histogram()?;
        let step = self.pace.map(|pace| self.connections as f64 / pace);
        for turn in 0..self.turns {
            if let Some(step) = step {
                // The connections begin one after the other within the first step.
                let share = index as f64 / self.connections as f64;
                let due = start + Duration::from_secs_f64(step * (turn as f64 + share));
                tokio::time::sleep_until(due.min(until).into()).await;
            }
            let begin = Instant::now();
            if begin >= until {
                break;
            }
            let exchange = (self.work)(index, turn);
            send(&mut connection, &exchange).await?;
            latencies.record(begin.elapsed().as_micros() as u64)?;
        }
        Ok(latencies)
    }
}

/// Sends one request and checks its answer.
pub async fn send(connection: &mut Connection, exchange: &Exchange) -> anyhow::Result<()> {
    let body = connection.exchange(&exchange.request).await?;
    let is_expected = |(text, times): &(String, usize)| memmem::find_iter(body, text).count() == *times;
    anyhow::ensure!(
        memmem::find(body, b"\"errors\"").is_none() && exchange.expected.iter().all(is_expected),
        "unexpected answer to {}: {}, expected {:?}",
        String::from_utf8_lossy(&exchange.request),
        String::from_utf8_lossy(body),
        exchange.expected
    );
    Ok(())
}

pub fn new_histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new(3)?)
}

/// Runs a future on a thread of its own with a runtime of its own.
pub async fn on_one_thread<T, F>(future: F) -> anyhow::Result<T>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let thread = tokio::task::spawn_blocking(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
    });
    thread.await.context("the load generator failed")?
}
