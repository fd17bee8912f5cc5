//! One measurement: a load on one system, and what the processes used for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;
use tokio::process::Command;
use uuid::Uuid;

use super::http::{Connection, Endpoint};
use super::load::{Load, Outcome, Work, new_histogram, on_one_thread, send};
use super::names::{
    ACCOUNT, ANNALS, BARE_INSERT, LIST, OBJECT, PEER, PEER_CLUSTER, PGBENCH, REFERENCE, REGISTER, RENAME,
    RENAME_ALONE, RENAME_OLD, RENAME_WITH_CONFLICTS, RENAME_WITH_ID, VISIBLE,
};
use super::settings::{HALF_LOAD, PEER_WARM_UP, READ_MODEL, WARM_UP, load_duration};
use super::site::Site;
use super::work::{self, Customers, LIST_ROWS, RenameKind};
use crate::product::Gateway;
use crate::report::median_of;
use crate::server;
use crate::systems::bare_insert::BareInsert;
use crate::usage::{ended_children_seconds, memory_mib, own_processor_time, process_seconds, rounded};

/// The share of pgbench's transactions whose latency is logged.
const PGBENCH_SAMPLE: &str = "0.05";

/// What is measured in one round.
pub struct Case {
    pub row: &'static str,
    pub system: &'static str,
    pub connections: usize,
    work: Option<Work>,
    endpoint: Endpoint,
}

pub struct Measured {
    pub round: usize,
    pub row: &'static str,
    pub system: &'static str,
    pub figures: Figures,
}

#[derive(Serialize)]
pub struct Figures {
    pub per_second: f64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// Per request; absent where requests of several kinds are sent.
    pub cpu_us: Option<Cpu>,
    pub product_memory_mib: f64,
}

/// Processor time of one request in microseconds, with all that follows from it.
#[derive(Serialize)]
pub struct Cpu {
    pub product: f64,
    pub postgresql: f64,
    pub nats: f64,
    pub peer: f64,
    /// The load generator.
    pub load: f64,
}

impl Cpu {
    /// All that serves the request.
    pub fn servers(&self) -> f64 {
        self.product + self.postgresql + self.nats + self.peer
    }
}

impl Case {
    /// The rows, each with its systems.
    pub fn all(site: &Site) -> Vec<Vec<Self>> {
        let (annals, single, cluster) = (&site.endpoint, &site.single.endpoint, &site.cluster.endpoint);
        let of = |ids: &Arc<[Uuid]>, connections| Customers { ids: Arc::clone(ids), connections };
        let (read, warm) = (of(&site.read, 32), of(&site.warm, 32));
        let (warm_alone, old) = (of(&site.warm, 1), of(&Arc::from([site.old]), 1));
        let case = |row, system, connections, endpoint: &Endpoint, work| Self {
            row,
            system,
            connections,
            work: Some(work),
            endpoint: endpoint.clone(),
        };
        let other = |row, system, connections| Self {
            row,
            system,
            connections,
            work: None,
            endpoint: annals.clone(),
        };
        let renames = |row, kind| vec![case(row, ANNALS, 32, annals, work::rename(annals, &warm, kind))];
        let mut rename = renames(RENAME, RenameKind::Plain);
        rename.push(case(RENAME, PEER, 32, single, work::peer_update(single, &warm)));
        rename.push(case(RENAME, PEER_CLUSTER, 32, cluster, work::peer_update(cluster, &warm)));
        vec![
            vec![
                case(LIST, ANNALS, 32, annals, work::list(annals, false)),
                case(LIST, REFERENCE, 32, annals, work::list(annals, false)),
                case(LIST, PEER, 32, single, work::list(single, true)),
                case(LIST, PEER_CLUSTER, 32, cluster, work::list(cluster, true)),
                other(LIST, PGBENCH, 32),
            ],
            vec![
                case(OBJECT, ANNALS, 32, annals, work::object(annals, &read, false)),
                case(OBJECT, REFERENCE, 32, annals, work::object(annals, &read, false)),
                case(OBJECT, PEER, 32, single, work::object(single, &read, true)),
                case(OBJECT, PEER_CLUSTER, 32, cluster, work::object(cluster, &read, true)),
            ],
            vec![case(ACCOUNT, ANNALS, 32, annals, work::account(annals))],
            rename,
            renames(RENAME_WITH_ID, RenameKind::WithCommandId),
            renames(RENAME_WITH_CONFLICTS, RenameKind::WithConflicts),
            vec![
                case(RENAME_ALONE, ANNALS, 1, annals, work::rename(annals, &warm_alone, RenameKind::Plain)),
                case(RENAME_ALONE, PEER, 1, single, work::peer_update(single, &warm_alone)),
                other(RENAME_ALONE, BARE_INSERT, 1),
                case(RENAME_OLD, ANNALS, 1, annals, work::rename(annals, &old, RenameKind::Plain)),
            ],
            vec![other(VISIBLE, ANNALS, 32)],
            vec![
                case(REGISTER, ANNALS, 64, annals, work::register(annals, false)),
                case(REGISTER, PEER, 64, single, work::register(single, true)),
                case(REGISTER, PEER_CLUSTER, 64, cluster, work::register(cluster, true)),
            ],
        ]
    }

    /// Lets PostGraphile work for a while, before the first round.
    pub async fn warm_up_peer(&self, site: &Site) -> anyhow::Result<()> {
        if [PEER, PEER_CLUSTER].contains(&self.system) {
            self.load(site, &self.endpoint.address, PEER_WARM_UP, 1.0).await?;
        }
        Ok(())
    }

    /// Warms up, measures, and waits for the consumers, whose work is part of the costs.
    pub async fn measure(
        &self,
        site: &Site,
        reference: Option<&Gateway>,
        measured: &[Measured],
        round: usize,
    ) -> anyhow::Result<Figures> {
        let mut product = site.product.pid()?;
        let mut address = self.endpoint.address.clone();
        if self.system == REFERENCE {
            let gateway = reference.context("the gateway runs")?;
            product = gateway.child.id().context("the gateway runs")?;
            address.clone_from(&gateway.address);
        }
        let peer = match self.system {
            PEER => Some(site.single.pid),
            PEER_CLUSTER => Some(site.cluster.pid),
            _ => None,
        };
        let rate = measured.iter().find(|one| (one.round, one.row, one.system) == (round, RENAME, ANNALS));
        let rate = rate.map_or(1.0, |one| one.figures.per_second) * HALF_LOAD;
        if self.system != PGBENCH {
            self.load(site, &address, WARM_UP, rate).await?;
        }
        site.followed().await?;
        let used = || anyhow::Ok((site.usage(peer)?, process_seconds(product)?, own_seconds()?));
        let before = used()?;
        let outcome = self.load(site, &address, load_duration(), rate).await?;
        let load = own_seconds()? - before.2;
        site.followed().await?;
        let after = used()?;
        let per_request = |seconds: f64| rounded(seconds * 1e6 / outcome.requests as f64, 1);
        let quantile = |quantile| {
            let is_known = !outcome.latencies.is_empty();
            is_known.then(|| outcome.latencies.value_at_quantile(quantile) as f64 / 1_000.0)
        };
        Ok(Figures {
            per_second: rounded(outcome.requests as f64 / outcome.seconds, 0),
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            cpu_us: (self.row != VISIBLE).then(|| Cpu {
                product: per_request(after.1 - before.1),
                postgresql: per_request(after.0.postgresql - before.0.postgresql),
                nats: per_request(after.0.nats - before.0.nats),
                peer: per_request(after.0.peer - before.0.peer),
                load: per_request(load),
            }),
            product_memory_mib: rounded(memory_mib(product), 1),
        })
    }

    async fn load(&self, site: &Site, address: &str, lasts: Duration, rate: f64) -> anyhow::Result<Outcome> {
        if let Some(work) = &self.work {
            let load = Load::new(address, self.connections, Arc::clone(work));
            return on_one_thread(async move { load.run(lasts).await }).await;
        }
        match self.system {
            PGBENCH => pgbench(site, self.connections, lasts).await,
            BARE_INSERT => bare_insert(site, lasts).await,
            _ => {
                let warm = Customers { ids: Arc::clone(&site.warm), connections: self.connections };
                let work = work::rename(&self.endpoint, &warm, RenameKind::Plain);
                let load = Load { pace: Some(rate), ..Load::new(address, self.connections, work) };
                let (endpoint, probed) = (self.endpoint.clone(), Arc::clone(&site.probed));
                on_one_thread(async move { visible(&load, &endpoint, &probed, lasts).await }).await
            }
        }
    }
}

/// What this process has used, with children that have ended (pgbench).
fn own_seconds() -> anyhow::Result<f64> {
    Ok(own_processor_time()?.as_secs_f64() + ended_children_seconds())
}

/// Beside the load, one client renames a customer and reads it without a consistency token until it has the new name. The
/// latencies are from the answer of the command to the answer with the new name; the requests are those of the load.
async fn visible(
    load: &Load,
    endpoint: &Endpoint,
    probed: &[Uuid],
    lasts: Duration,
) -> anyhow::Result<Outcome> {
    let probe = async {
        let mut connection = Connection::open(&endpoint.address).await?;
        let mut latencies = new_histogram()?;
        let begin = Instant::now();
        for id in probed.iter().cycle() {
            if begin.elapsed() >= lasts {
                break;
            }
            let (rename, name) = work::one_rename(endpoint, *id);
            send(&mut connection, &rename).await?;
            let answered = Instant::now();
            let read = work::one_object(endpoint, *id, false, Some(&name));
            while send(&mut connection, &read).await.is_err() {
                anyhow::ensure!(
                    answered.elapsed() < Duration::from_secs(10),
                    "a rename does not become visible"
                );
            }
            latencies.record(answered.elapsed().as_micros() as u64)?;
        }
        Ok(latencies)
    };
    let (outcome, latencies) = tokio::try_join!(load.run(lasts), probe)?;
    Ok(Outcome { latencies, ..outcome })
}

/// One prepared INSERT after the other on one connection, without HTTP.
async fn bare_insert(site: &Site, lasts: Duration) -> anyhow::Result<Outcome> {
    site.admin.batch_execute("truncate peer.bare").await?;
    let url = format!("{}?options=-csearch_path%3Dpeer", site.product.database_url()?);
    on_one_thread(async move {
        let inserts = BareInsert::open(&url, 1).await?;
        let mut latencies = new_histogram()?;
        let start = Instant::now();
        while start.elapsed() < lasts {
            let begin = Instant::now();
            inserts.append(0, latencies.len()).await?;
            latencies.record(begin.elapsed().as_micros() as u64)?;
        }
        Ok(Outcome { requests: latencies.len(), seconds: start.elapsed().as_secs_f64(), latencies })
    })
    .await
}

/// The statement of the list, by PostgreSQL's own load generator, without row-level security.
async fn pgbench(site: &Site, connections: usize, lasts: Duration) -> anyhow::Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("list.sql");
    let statement = format!(
        "select id, name, email, status, version, registered_at from {READ_MODEL} where tenant_id = '{}' \
         order by registered_at, id limit {LIST_ROWS};\n",
        site.tenant
    );
    std::fs::write(&script, statement)?;
    // Its time begins before its connections are open.
    let seconds = lasts.as_secs() + 1;
    let output = Command::new(server::programs()?.join("pgbench"))
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2", "--log"])
        .arg(format!("--client={connections}"))
        .arg(format!("--time={seconds}"))
        .arg(format!("--sampling-rate={PGBENCH_SAMPLE}"))
        .arg("--file")
        .arg(&script)
        .arg(site.product.database_url()?)
        .current_dir(folder.path())
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    let after = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix)?.split(' ').next());
    let requests =
        after("number of transactions actually processed: ").context("no transactions")?.parse()?;
    let rate: f64 = after("tps = ").context("no rate")?.parse()?;
    let mut latencies = new_histogram()?;
    for file in std::fs::read_dir(folder.path())?.flatten() {
        if file.file_name().to_string_lossy().starts_with("pgbench_log") {
            // Client, transaction, latency in microseconds, ...
            for line in std::fs::read_to_string(file.path())?.lines() {
                latencies.record(line.split(' ').nth(2).context("no latency")?.parse()?)?;
            }
        }
    }
    Ok(Outcome { requests, seconds: requests as f64 / rate, latencies })
}

impl Figures {
    /// The median of each figure.
    pub fn median(rounds: &[&Self]) -> Self {
        let of = |figure: fn(&Self) -> Option<f64>| median_of(rounds.iter().map(|one| figure(one)));
        let cpu =
            |figure: fn(&Cpu) -> f64| median_of(rounds.iter().map(|one| one.cpu_us.as_ref().map(figure)));
        let (product, postgresql) = (cpu(|cpu| cpu.product), cpu(|cpu| cpu.postgresql));
        let (nats, peer, load) = (cpu(|cpu| cpu.nats), cpu(|cpu| cpu.peer), cpu(|cpu| cpu.load));
        let all = product.zip(postgresql).zip(nats).zip(peer).zip(load);
        Self {
            per_second: of(|one| Some(one.per_second)).unwrap_or(f64::NAN),
            p50_ms: of(|one| one.p50_ms),
            p99_ms: of(|one| one.p99_ms),
            cpu_us: all.map(|((((product, postgresql), nats), peer), load)| Cpu {
                product,
                postgresql,
                nats,
                peer,
                load,
            }),
            product_memory_mib: of(|one| Some(one.product_memory_mib)).unwrap_or(f64::NAN),
        }
    }
}
