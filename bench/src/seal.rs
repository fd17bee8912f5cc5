//! Sealing and proofs, on a log of ten million events: the role `sealer` as the product runs it, alone in this process, so
//! that the process's processor time is the sealer's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use audit::{Signer, SignerConfig, proof, sealer};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use proofs::{Hash, tree};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::log::BigLog;
use crate::server::Server;
use crate::usage::{own_processor_time, processor_seconds, rounded};

/// Leaves of the whole log.
const LEAVES: u64 = 10_000_000;
/// Events a second, and how often the log grows by so many.
const PER_SECOND: u64 = 50_000;
const EVERY: Duration = Duration::from_millis(100);
const PACED: Duration = Duration::from_secs(30);
/// How often the product seals.
const SEAL_EVERY: Duration = Duration::from_secs(2);
const PROOFS: u64 = 5_000;
const AT_ONCE: usize = 8;
const VERIFICATIONS: u64 = 50_000;
const BILLION: u64 = 1_000_000_000;

#[derive(Serialize)]
pub struct Sealing {
    leaves: u64,
    /// Without rests, from the first leaf on: as after a restore.
    backlog: Cost,
    /// Behind the backlog, at a steady rate, of events in PostgreSQL's memory, as those are that were just appended.
    paced: Cost,
    paced_events_a_second: u64,
    /// The same looks for as long without a sealer and without growth: what is used in any case.
    own_at_rest_core_percent: f64,
    postgresql_at_rest_core_percent: f64,
    /// The sealer and what PostgreSQL uses because of it, at the steady rate.
    paced_together_core_percent: f64,
    /// From the growth of the log to the checkpoint that covers it, at worst.
    longest_until_sealed_s: f64,
    goal: &'static str,
    inclusion: Inclusion,
}

/// What sealing so many leaves cost.
#[derive(Serialize)]
struct Cost {
    leaves: u64,
    seconds: f64,
    leaves_a_second: f64,
    sealer_core_percent: f64,
    sealer_nanoseconds_a_leaf: f64,
    postgresql_core_percent: f64,
    postgresql_nanoseconds_a_leaf: f64,
}

#[derive(Serialize)]
struct Inclusion {
    leaves: u64,
    most_hashes: usize,
    most_bytes: usize,
    answer_json_bytes: usize,
    calculated_at_a_billion_hashes: usize,
    calculated_at_a_billion_bytes: usize,
    goal: &'static str,
    proved_one_at_a_time_a_second: f64,
    proved_p50_ms: f64,
    proved_p99_ms: f64,
    proved_eight_at_a_time_a_second: f64,
    verified_a_second: f64,
}

/// Processor time used so far by the sealer and by PostgreSQL.
struct Clocks {
    at: Instant,
    own: Duration,
    postgresql: f64,
}

impl Clocks {
    fn read(server: &Server) -> anyhow::Result<Self> {
        let (own, postgresql) = (own_processor_time()?, processor_seconds(server.pid()));
        Ok(Self { at: Instant::now(), own, postgresql })
    }

    fn cost(&self, server: &Server, leaves: u64) -> anyhow::Result<Cost> {
        let now = Self::read(server)?;
        let seconds = (now.at - self.at).as_secs_f64();
        let (own, postgresql) = ((now.own - self.own).as_secs_f64(), now.postgresql - self.postgresql);
        let a_leaf = |used: f64| rounded(used * 1e9 / leaves as f64, 0);
        Ok(Cost {
            leaves,
            seconds: rounded(seconds, 2),
            leaves_a_second: rounded(leaves as f64 / seconds, 0),
            sealer_core_percent: rounded(own / seconds * 100.0, 2),
            sealer_nanoseconds_a_leaf: a_leaf(own),
            postgresql_core_percent: rounded(postgresql / seconds * 100.0, 2),
            postgresql_nanoseconds_a_leaf: a_leaf(postgresql),
        })
    }
}

pub async fn run(server: &Server) -> anyhow::Result<Sealing> {
    let growth = PER_SECOND * PACED.as_secs();
    let progress = ProgressBar::new(LEAVES).with_message("loading events");
    progress.set_style(indicatif::ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}")?);
    let log = BigLog::load(server, LEAVES, growth, &progress).await?;
    progress.finish_and_clear();
    let folder = tempfile::tempdir()?;
    let signer = Arc::new(Signer::open(&SignerConfig {
        deployment: "bench.example".to_owned(),
        key: fresh_key()?,
        previous_signing_key: None,
        folder: folder.path().to_owned(),
    })?);

    log.move_head(LEAVES - growth).await?;
    let begun = Clocks::read(server)?;
    let running = Sealer::start(&log, &signer, Duration::from_millis(1));
    until_sealed(&log, LEAVES - growth).await?;
    let backlog = begun.cost(server, LEAVES - growth)?;
    running.stop().await?;

    log.warm(LEAVES - growth).await?;
    let running = Sealer::start(&log, &signer, SEAL_EVERY);
    let step = PER_SECOND * EVERY.as_millis() as u64 / 1_000;
    // The first round of a sealer rebuilds the right edge.
    let warm = LEAVES - growth + step;
    log.move_head(warm).await?;
    until_sealed(&log, warm).await?;
    let begun = Clocks::read(server)?;
    let longest = pace(&log, warm, step, (LEAVES - warm) / step).await?;
    let paced = begun.cost(server, LEAVES - warm)?;
    until_sealed(&log, LEAVES).await?;
    running.stop().await?;
    let begun = Clocks::read(server)?;
    pace(&log, LEAVES, 0, (LEAVES - warm) / step).await?;
    let at_rest = begun.cost(server, LEAVES - warm)?;
    let together = |cost: &Cost| cost.sealer_core_percent + cost.postgresql_core_percent;
    let paced_together = together(&paced) - together(&at_rest);
    let inclusion = inclusion(&log, &signer).await?;
    log.store.shutdown().await;
    Ok(Sealing {
        leaves: LEAVES,
        backlog,
        paced,
        paced_events_a_second: PER_SECOND,
        own_at_rest_core_percent: at_rest.sealer_core_percent,
        postgresql_at_rest_core_percent: at_rest.postgresql_core_percent,
        paced_together_core_percent: rounded(paced_together, 2),
        longest_until_sealed_s: rounded(longest.as_secs_f64(), 2),
        goal: "paced_together_core_percent <= 6 at 50,000 events/s",
        inclusion,
    })
}

/// A sealer at work.
struct Sealer {
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Sealer {
    fn start(log: &BigLog, signer: &Arc<Signer>, every: Duration) -> Self {
        let cancel = CancellationToken::new();
        let run = sealer::run(log.store.clone(), None, Arc::clone(signer), every, cancel.clone());
        Self { cancel, task: tokio::spawn(run) }
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.cancel.cancel();
        Ok(self.task.await?)
    }
}

/// Lets the log grow `times` times by `step`, and looks each time how far it is sealed. Returns the longest time from the
/// growth of the log to a seal that covers it.
async fn pace(log: &BigLog, from: u64, step: u64, times: u64) -> anyhow::Result<Duration> {
    let mut ticks = tokio::time::interval(EVERY);
    let (mut unsealed, mut longest) = (std::collections::VecDeque::new(), Duration::ZERO);
    for time in 1..=times {
        ticks.tick().await;
        let head = from + step * time;
        log.move_head(head).await?;
        unsealed.push_back((head, Instant::now()));
        let sealed = log.sealed().await?;
        while let Some((_, grown)) = unsealed.pop_front_if(|(position, _)| *position <= sealed) {
            longest = longest.max(grown.elapsed());
        }
    }
    Ok(longest)
}

async fn until_sealed(log: &BigLog, position: u64) -> anyhow::Result<()> {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    while log.sealed().await? < position {
        looks.tick().await;
    }
    Ok(())
}

async fn inclusion(log: &BigLog, signer: &Signer) -> anyhow::Result<Inclusion> {
    let tenant = log.store.tenant(log.tenant);
    // Spread over the log, the same ones each time.
    let position = |n: u64| 1 + n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % LEAVES;
    let mut latencies = Histogram::<u64>::new(3)?;
    let mut proved = Vec::new();
    let begun = Instant::now();
    for n in 0..PROOFS {
        let one = Instant::now();
        proved.push(proof::inclusion(&tenant, position(n), None).await?);
        latencies.record(one.elapsed().as_micros() as u64)?;
    }
    let one_at_a_time = PROOFS as f64 / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for part in 0..AT_ONCE as u64 {
        let tenant = tenant.clone();
        tasks.spawn(async move {
            for n in (part..PROOFS).step_by(AT_ONCE) {
                proof::inclusion(&tenant, position(PROOFS + n), None).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let eight_at_a_time = PROOFS as f64 / begun.elapsed().as_secs_f64();

    let note = proof::newest(&tenant).await?.note;
    let checkpoint = signer.verify_own(log.log_id, &note)?;
    let decoded = proved.iter().map(|proof| {
        let hashes: anyhow::Result<Vec<Hash>> = proof.path.iter().map(|hash| hash_of(hash)).collect();
        anyhow::Ok((proof.position - 1, STANDARD.decode(&proof.entry)?, hashes?))
    });
    let decoded: Vec<(u64, Vec<u8>, Vec<Hash>)> = decoded.collect::<anyhow::Result<_>>()?;
    let begun = Instant::now();
    for n in 0..VERIFICATIONS {
        let (index, entry, path) = &decoded[n as usize % decoded.len()];
        let leaf = proofs::leaf_hash(entry);
        let holds = tree::verify_inclusion(*index, checkpoint.size, &leaf, path, &checkpoint.root);
        anyhow::ensure!(holds, "the proof of index {index} does not verify");
    }
    let verified = VERIFICATIONS as f64 / begun.elapsed().as_secs_f64();

    let most = decoded.iter().map(|(_, _, path)| path.len()).max().unwrap_or(0);
    let answer = proved.iter().map(|proof| serde_json::to_vec(proof).map_or(0, |json| json.len())).max();
    let at_a_billion = (0..PROOFS)
        .map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % BILLION)
        .chain([0, BILLION - 1])
        .filter_map(|index| Some(tree::inclusion(index, BILLION)?.len()))
        .max()
        .unwrap_or(0);
    let milliseconds = |quantile: f64| latencies.value_at_quantile(quantile) as f64 / 1_000.0;
    Ok(Inclusion {
        leaves: checkpoint.size,
        most_hashes: most,
        most_bytes: most * size_of::<Hash>(),
        answer_json_bytes: answer.unwrap_or(0),
        calculated_at_a_billion_hashes: at_a_billion,
        calculated_at_a_billion_bytes: at_a_billion * size_of::<Hash>(),
        goal: "the path <= 1,024 bytes at 10^9 leaves",
        proved_one_at_a_time_a_second: rounded(one_at_a_time, 0),
        proved_p50_ms: milliseconds(0.5),
        proved_p99_ms: milliseconds(0.99),
        proved_eight_at_a_time_a_second: rounded(eight_at_a_time, 0),
        verified_a_second: rounded(verified, 0),
    })
}

fn hash_of(text: &str) -> anyhow::Result<Hash> {
    Hash::try_from(STANDARD.decode(text)?.as_slice()).map_err(Into::into)
}

/// An Ed25519 key as PKCS #8 PEM.
fn fresh_key() -> anyhow::Result<String> {
    let pair = aws_lc_rs::signature::Ed25519KeyPair::generate()?;
    let encoded = STANDARD.encode(pair.to_pkcs8v1()?.as_ref());
    Ok(format!("-----BEGIN PRIVATE KEY-----\n{encoded}\n-----END PRIVATE KEY-----\n"))
}
