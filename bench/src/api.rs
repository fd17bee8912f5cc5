//! The product as its users meet it, over HTTP, beside PostGraphile over the same rows in the same PostgreSQL server.
//!
//! `site` starts and fills both, `work` holds the requests of both, `http` and `load` are the load generator, `measure`
//! is one measurement, `goals` compares,
//! `names` has the names of rows and systems, `settings` says how much is measured.

mod goals;
mod http;
mod load;
mod measure;
mod names;
mod settings;
mod site;
mod work;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};

use goals::{Goal, Ratio};
use measure::{Case, Figures, Measured};
use names::REFERENCE;
use site::Site;

#[derive(Serialize)]
pub struct Api {
    versions: Value,
    settings: Value,
    rows: Vec<ResultRow>,
    ratios: Vec<Ratio>,
    left_out: Vec<Value>,
}

/// One row for one system.
#[derive(Serialize)]
struct ResultRow {
    row: &'static str,
    system: &'static str,
    connections: usize,
    #[serde(flatten)]
    figures: Figures,
}

pub async fn run() -> anyhow::Result<Api> {
    let site = Site::start().await?;
    let rounds = settings::rounds();
    let cases = Case::all(&site);
    println!("warming PostGraphile up");
    for case in cases.iter().flatten() {
        case.warm_up_peer(&site).await?;
    }
    let progress = ProgressBar::new((rounds * cases.iter().map(Vec::len).sum::<usize>()) as u64);
    progress.set_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}")?);
    let mut measured: Vec<Measured> = Vec::new();
    for round in 0..rounds {
        let reference = site.product.gateway(&[("ANNALS__GATEWAY__COMPILED_READS", "false")]).await?;
        let mut reference = Some(reference);
        for systems in &cases {
            // The reference executor's process does no background work while others are measured.
            if !systems.iter().any(|case| case.system == REFERENCE) {
                drop(reference.take());
            }
            for index in 0..systems.len() {
                let case = &systems[(index + round) % systems.len()];
                progress.set_message(format!("{}: {}", case.row, case.system));
                let figures = case.measure(&site, reference.as_ref(), &measured, round).await;
                let figures = figures.with_context(|| format!("{}, {}", case.row, case.system))?;
                measured.push(Measured { round, row: case.row, system: case.system, figures });
                progress.inc(1);
            }
        }
    }
    progress.finish_and_clear();
    let versions = site.versions().await?;
    site.stop().await?;

    let rows = cases.iter().flatten().map(|case| {
        let of_case = measured.iter().filter(|one| (one.row, one.system) == (case.row, case.system));
        let figures = Figures::median(&of_case.map(|one| &one.figures).collect::<Vec<_>>());
        ResultRow { row: case.row, system: case.system, connections: case.connections, figures }
    });
    let api = Api {
        versions,
        settings: json!({
            "profile": crate::product::profile()?,
            "rounds": rounds,
            "seconds_a_load": settings::load_duration().as_secs(),
            "customers": settings::customers(),
            "old_customer_versions": settings::old_versions(),
            "postgresql": site::POSTGRESQL_SETTINGS.map(|(name, value)| format!("{name}={value}")),
            "statistic": "median of interleaved rounds; ratios are of one round",
        }),
        rows: rows.collect(),
        ratios: Goal::ALL.iter().map(|goal| goal.ratio(&measured)).collect(),
        left_out: vec![json!({
            "row": "list of 20 with a relation of 5",
            "reason": "the product has no relation with many rows",
            "at_least": 5.0,
        })],
    };
    api.print();
    Ok(api)
}

impl Api {
    fn print(&self) {
        let mut rows = goals::table(&[
            "row",
            "system",
            "/s",
            "p50 ms",
            "p99 ms",
            "product µs",
            "PostgreSQL µs",
            "NATS µs",
            "peer µs",
            "load µs",
            "MiB",
        ]);
        for ResultRow { row, system, figures, .. } in &self.rows {
            let number = |value: Option<f64>, digits: usize| {
                value.map_or_else(String::new, |value| format!("{value:.digits$}"))
            };
            let cpu = figures.cpu_us.as_ref();
            let cpu = |of: fn(&measure::Cpu) -> f64| number(cpu.map(of), 0);
            rows.add_row([
                (*row).to_owned(),
                (*system).to_owned(),
                number(Some(figures.per_second), 0),
                number(figures.p50_ms, 2),
                number(figures.p99_ms, 2),
                cpu(|cpu| cpu.product),
                cpu(|cpu| cpu.postgresql),
                cpu(|cpu| cpu.nats),
                cpu(|cpu| cpu.peer),
                cpu(|cpu| cpu.load),
                number(Some(figures.product_memory_mib), 0),
            ]);
        }
        println!("{rows}");
        println!("{}", goals::ratios_table(&self.ratios));
    }
}
