//! `make bench`: appends a second, against peers, in one run on one server at one durability.
//!
//! Layout: `server` starts a private PostgreSQL; `systems` holds one file a system under test; `load` drives a case;
//! `report` prints the table and writes `results.json`.

mod load;
mod report;
mod server;
mod systems;

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::load::Measured;
use crate::systems::{SystemName, Systems};

/// Writers at a time.
const CONCURRENCY: [usize; 3] = [1, 16, 128];
/// Streams written to, shared out among the writers.
const STREAMS: usize = 1_000;
const ROUNDS: usize = 3;
const WARM_UP: Duration = Duration::from_millis(700);
const MEASURE: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let server = server::Server::start().await?;
    let systems = Systems::set_up(&server).await?;
    let progress = ProgressBar::new((ROUNDS * CONCURRENCY.len() * SystemName::ALL.len()) as u64);
    progress.set_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}")?);
    let mut measured: Vec<Measured> = Vec::new();
    for round in 0..ROUNDS {
        for concurrency in CONCURRENCY {
            // Interleaved: every system meets the same minutes of the machine. The order turns from round to round.
            for index in 0..SystemName::ALL.len() {
                let name = SystemName::ALL[(index + round) % SystemName::ALL.len()];
                progress.set_message(format!("{} at {concurrency}", name.label()));
                systems.empty(name).await?;
                let system = systems.open(name, concurrency).await?;
                measured.push(load::run(name, &system, concurrency).await?);
                system.check().await?;
                progress.inc(1);
            }
        }
    }
    progress.finish_and_clear();
    let report = report::Report::of(&measured, &server.version().await?);
    report.print();
    report.write(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/results.json")))?;
    server.stop().await
}
