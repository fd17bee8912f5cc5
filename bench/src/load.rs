//! A closed loop: each writer appends one event, waits for the durable answer, and goes on with its next stream.

use std::sync::Arc;
use std::time::Instant;

use hdrhistogram::Histogram;

use crate::settings::{MEASURE, STREAMS, WARM_UP};
use crate::systems::{System, SystemName};

/// One system in one round.
pub struct Measured {
    pub system: SystemName,
    pub concurrency: usize,
    pub pace: Pace,
}

/// What a loop came to.
pub struct Pace {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

pub async fn run(name: SystemName, system: &Arc<System>, concurrency: usize) -> anyhow::Result<Measured> {
    let system = Arc::clone(system);
    let append = move |stream: usize, version: u64| {
        let system = Arc::clone(&system);
        async move { system.append(stream, version).await }
    };
    Ok(Measured { system: name, concurrency, pace: closed_loop(concurrency, append).await? })
}

/// Lets so many writers append. Each gets the number of a stream, and the version at which it left the stream.
pub async fn closed_loop<A, F>(concurrency: usize, append: A) -> anyhow::Result<Pace>
where
    A: Fn(usize, u64) -> F + Clone + Send + 'static,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let start = Instant::now();
    let from = start + WARM_UP;
    let until = from + MEASURE;
    let writers = (0..concurrency).map(|writer| {
        let append = append.clone();
        tokio::spawn(async move {
            let mut latencies = Histogram::<u64>::new(3)?;
            // The writer's own share of the streams, so that no writer meets a conflict.
            let streams: Vec<usize> = (writer..STREAMS.max(concurrency)).step_by(concurrency).collect();
            let mut versions = vec![0_u64; streams.len()];
            let mut next = 0;
            loop {
                let begin = Instant::now();
                if begin >= until {
                    return anyhow::Ok(latencies);
                }
                append(streams[next], versions[next]).await?;
                let end = Instant::now();
                if begin >= from && end <= until {
                    latencies.record((end - begin).as_micros() as u64)?;
                }
                versions[next] += 1;
                next = (next + 1) % streams.len();
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut all = Histogram::<u64>::new(3)?;
    for writer in writers {
        all.add(writer.await??)?;
    }
    let milliseconds = |quantile: f64| all.value_at_quantile(quantile) as f64 / 1_000.0;
    Ok(Pace {
        per_second: all.len() as f64 / MEASURE.as_secs_f64(),
        p50_ms: milliseconds(0.5),
        p99_ms: milliseconds(0.99),
    })
}
