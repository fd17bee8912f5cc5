//! The outcome: medians over the rounds, ratios against the goals, as a table; and `results.json`, which holds every part.

use std::path::Path;

use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::load::Measured;
use crate::server::SETTINGS;
use crate::settings::{CONCURRENCY, MEASURE, ROUNDS, STREAMS};
use crate::systems::{PEER_POOL, SystemName};

#[derive(Serialize)]
pub struct Report {
    machine: Machine,
    versions: Versions,
    settings: Settings,
    cases: Vec<Case>,
    ratios: Vec<Ratio>,
}

#[derive(Serialize)]
pub struct Machine {
    processor: String,
    cores: usize,
    memory_gib: u64,
}

#[derive(Serialize)]
struct Versions {
    annals: &'static str,
    postgresql: String,
    postgres_es: &'static str,
}

#[derive(Serialize)]
struct Settings {
    postgresql: &'static [&'static str],
    event_bytes: usize,
    streams: usize,
    rounds: usize,
    seconds_a_case: u64,
    peer_pool: usize,
    statistic: &'static str,
}

#[derive(Serialize)]
struct Case {
    name: &'static str,
    system: &'static str,
    tenants: u32,
    concurrency: usize,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

#[derive(Serialize)]
struct Ratio {
    name: String,
    value: f64,
    goal: f64,
}

impl Report {
    pub fn of(measured: &[Measured], postgresql: &str) -> Self {
        let mut cases = Vec::new();
        for concurrency in CONCURRENCY {
            for system in SystemName::ALL {
                let rounds: Vec<&Measured> =
                    measured.iter().filter(|m| m.system == system && m.concurrency == concurrency).collect();
                cases.push(Case {
                    name: "append",
                    system: system.label(),
                    tenants: 1,
                    concurrency,
                    per_second: median(rounds.iter().map(|m| m.pace.per_second)).round(),
                    p50_ms: median(rounds.iter().map(|m| m.pace.p50_ms)),
                    p99_ms: median(rounds.iter().map(|m| m.pace.p99_ms)),
                });
            }
        }
        let rate = |system: SystemName, concurrency: usize| {
            let case = cases.iter().find(|c| c.system == system.label() && c.concurrency == concurrency);
            case.map_or(f64::NAN, |case| case.per_second)
        };
        let goals = [
            (SystemName::PostgresEsPersist, 128, 8.0),
            (SystemName::PostgresEsExecute, 128, 14.0),
            (SystemName::PostgresEsPersist, 16, 4.5),
            (SystemName::PostgresEsExecute, 16, 8.0),
            (SystemName::PostgresEsPersist, 1, 2.3),
            (SystemName::PostgresEsExecute, 1, 3.5),
        ];
        let ratios = goals
            .into_iter()
            .map(|(peer, writers, goal)| Ratio {
                name: format!("append, {writers} writers, over {}", peer.label()),
                value: (rate(SystemName::Annals, writers) / rate(peer, writers) * 100.0).round() / 100.0,
                goal,
            })
            .collect();
        Self {
            machine: machine(),
            versions: Versions {
                annals: env!("CARGO_PKG_VERSION"),
                postgresql: postgresql.to_owned(),
                postgres_es: "0.5.0",
            },
            settings: Settings {
                postgresql: &SETTINGS,
                event_bytes: 400,
                streams: STREAMS,
                rounds: ROUNDS,
                seconds_a_case: MEASURE.as_secs(),
                peer_pool: PEER_POOL,
                statistic: "median of interleaved rounds",
            },
            cases,
            ratios,
        }
    }

    pub fn print(&self) {
        let mut table = Table::new();
        table.set_header(["system", "writers", "appends/s", "p50 ms", "p99 ms"]);
        for case in &self.cases {
            table.add_row([
                case.system.to_owned(),
                case.concurrency.to_string(),
                format!("{:.0}", case.per_second),
                format!("{:.2}", case.p50_ms),
                format!("{:.2}", case.p99_ms),
            ]);
        }
        let mut ratios = Table::new();
        ratios.set_header(["ratio", "value", "goal"]);
        for ratio in &self.ratios {
            ratios.add_row([ratio.name.clone(), format!("{:.2}", ratio.value), format!(">= {}", ratio.goal)]);
        }
        for table in [&mut table, &mut ratios] {
            for column in table.column_iter_mut().skip(1) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            println!("{table}");
        }
    }
}

/// Puts these results into the file and leaves those of other parts as they are.
pub fn write(path: &Path, results: Value) -> anyhow::Result<()> {
    let mut all: Map<String, Value> = match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) => Map::new(),
    };
    let Value::Object(results) = results else { anyhow::bail!("results have names") };
    all.extend(results);
    std::fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
    println!("written to bench/results.json");
    Ok(())
}

pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median of the values that are there.
pub fn median_of(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.flatten().collect();
    (!values.is_empty()).then(|| median(values.into_iter()))
}

pub fn machine() -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        text.lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split_once(':'))
            .map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let kibibytes: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
    Machine {
        processor: field(&read("/proc/cpuinfo"), "model name"),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        memory_gib: kibibytes / 1024 / 1024,
    }
}
