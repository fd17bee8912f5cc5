//! `make bench`: what the product does a second, on a private PostgreSQL at full durability. Parts can be named:
//! `make bench ARGS="seal fanout"`.
//!
//! - `api`: what users of the API meet, beside PostGraphile over the same rows (`api`);
//! - `append`: appends a second beside peers, in one run on one server (`systems`, `load`);
//! - `personal`: what personal data cost an append (`personal`);
//! - `seal`: what sealing costs, and proofs, on a log of ten million events (`log`, `seal`);
//! - `fanout`: server-sent events of one gateway process to five hundred followers (`fanout`).
//!
//! `server` starts PostgreSQL, `usage` reads what processes cost, `report` writes `results.json`, part by part.

mod api;
mod fanout;
mod load;
mod log;
mod payload;
mod personal;
mod product;
mod report;
mod seal;
mod server;
mod settings;
mod systems;
mod usage;

use std::path::Path;

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::load::Measured;
use crate::server::Server;
use crate::settings::{CONCURRENCY, ROUNDS};
use crate::systems::{SystemName, Systems};

const PARTS: [&str; 5] = ["append", "personal", "seal", "fanout", "api"];
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/results.json");

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.is_empty() {
        wanted = PARTS.map(str::to_owned).into();
    }
    if let Some(unknown) = wanted.iter().find(|part| !PARTS.contains(&part.as_str())) {
        bail!("there is no part {unknown}: {}", PARTS.join(", "));
    }
    for part in wanted {
        let results = match part.as_str() {
            "append" => append().await?,
            "personal" => {
                let server = Server::start().await?;
                let personal = personal::run(&server).await?;
                server.stop().await?;
                shown(json!({"personal": measured(&personal)?}))
            }
            "seal" => {
                let server = Server::start().await?;
                let sealing = seal::run(&server).await?;
                server.stop().await?;
                shown(json!({"sealing": measured(&sealing)?}))
            }
            "api" => json!({"api": measured(&api::run().await?)?}),
            _ => shown(json!({"fanout": measured(&fanout::run().await?)?})),
        };
        report::write(Path::new(RESULTS), results)?;
    }
    Ok(())
}

/// With the machine and its load: parts are measured apart.
fn measured(results: &impl serde::Serialize) -> anyhow::Result<Value> {
    let mut results = serde_json::to_value(results)?;
    results["machine"] = serde_json::to_value(report::machine())?;
    // Who else was at work: what is bound by processors means little where this is above their number.
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    results["load_average"] = load.split(' ').take(3).collect::<Vec<_>>().join(" ").into();
    Ok(results)
}

fn shown(results: Value) -> Value {
    println!("{results:#}");
    results
}

async fn append() -> anyhow::Result<Value> {
    let server = Server::start().await?;
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
    server.stop().await?;
    Ok(serde_json::to_value(report)?)
}
