//! A private PostgreSQL for the measurement, as durable as it comes: nothing is switched off.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use store::{DeploymentKey, OwnerConfig, StoreConfig};
use tokio::process::{Child, Command};
use tokio_postgres::NoTls;

/// Settings beyond PostgreSQL's defaults: memory for the machine at hand, and room so that no checkpoint falls into one
/// system's turn. Durability stays as it is.
pub const SETTINGS: [&str; 7] = [
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "shared_buffers=2GB",
    "max_wal_size=16GB",
    "checkpoint_timeout=1h",
    "max_connections=300",
];

const PASSWORD: &str = "bench";

pub struct Server {
    child: Child,
    pub port: u16,
    _folder: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> anyhow::Result<Self> {
        let programs = programs()?;
        let account = account()?;
        let folder = tempfile::Builder::new().prefix("annals-bench-").tempdir()?;
        let password_file = folder.path().join("password");
        std::fs::write(&password_file, PASSWORD)?;
        if let Some(user) = &account {
            for path in [folder.path(), &password_file] {
                chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
            }
        }
        let data = folder.path().join("data");
        let initdb = command(&programs.join("initdb"), account.as_ref())
            .arg("-D")
            .arg(&data)
            .args(["-U", "postgres", "-A", "scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C"])
            .arg(format!("--pwfile={}", password_file.display()))
            .stdout(Stdio::null())
            .status()
            .await?;
        anyhow::ensure!(initdb.success(), "initdb failed");
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut postgres = command(&programs.join("postgres"), account.as_ref());
        postgres.arg("-D").arg(&data).arg("-k").arg(folder.path()).args(["-p", &port.to_string()]);
        for setting in SETTINGS.iter().chain(&["listen_addresses=127.0.0.1"]) {
            postgres.args(["-c", setting]);
        }
        let log = std::fs::File::create(folder.path().join("log"))?;
        let child = postgres.stdout(log.try_clone()?).stderr(log).kill_on_drop(true).spawn()?;
        let server = Self { child, port, _folder: folder };
        server.wait_until_ready().await?;
        Ok(server)
    }

    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        for _ in 0..200 {
            if self.connect("postgres").await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("PostgreSQL did not answer within 10 s")
    }

    /// The main process.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    pub async fn connect(&self, database: &str) -> anyhow::Result<tokio_postgres::Client> {
        let (client, connection) = tokio_postgres::connect(&self.url(database), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// A new database with the product's tables, and how a store is opened on it.
    pub async fn product_database(&self, name: &str) -> anyhow::Result<StoreConfig> {
        self.connect("postgres").await?.batch_execute(&format!("create database {name}")).await?;
        let owner = OwnerConfig {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            database: name.to_owned(),
            user: "postgres".to_owned(),
            password: PASSWORD.to_owned(),
            tls: store::TlsConfig::default(),
        };
        store::migrate::run(&owner, PASSWORD, &[]).await?;
        Ok(StoreConfig {
            host: owner.host,
            port: owner.port,
            database: owner.database,
            runtime_password: PASSWORD.to_owned(),
            key: DeploymentKey::generate(),
            keyring: None,
            append_workers: 2,
            pool_size: 4,
            tls: store::TlsConfig::default(),
            idle_timeout: std::time::Duration::from_mins(1),
        })
    }

    pub async fn version(&self) -> anyhow::Result<String> {
        Ok(self.connect("postgres").await?.query_one("show server_version", &[]).await?.get(0))
    }

    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id() {
            // SIGINT is PostgreSQL's fast shutdown.
            kill(Pid::from_raw(pid as i32), Signal::SIGINT)?;
        }
        self.child.wait().await?;
        Ok(())
    }
}

fn command(program: &Path, account: Option<&User>) -> Command {
    let mut command = Command::new(program);
    if let Some(user) = account {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// PostgreSQL refuses to run as root: as root it runs as `postgres`, else `nobody`.
fn account() -> anyhow::Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres")?.or(User::from_name("nobody")?);
    user.map(Some).context("as root, an account `postgres` or `nobody` is needed to run PostgreSQL")
}

/// The folder of PostgreSQL's programs, of the highest version.
pub fn programs() -> anyhow::Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .context("no PostgreSQL programs under /usr/lib/postgresql: run scripts/bootstrap")?
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, programs)| programs.join("postgres").exists())
        .collect();
    found.sort();
    found.pop().map(|(_, programs)| programs).context("no PostgreSQL server programs: run scripts/bootstrap")
}
