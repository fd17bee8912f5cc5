//! The product under measurement: `annals dev` with private servers and all roles, and further gateways over the same
//! servers.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use store::{DeploymentKey, Store, StoreConfig};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// The program as it is released, or another build that the environment names.
pub fn program() -> anyhow::Result<PathBuf> {
    let released = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/dist/annals");
    let program = std::env::var_os("ANNALS_BENCH_PROGRAM").map_or(released, PathBuf::from);
    anyhow::ensure!(
        program.exists(),
        "{} is missing: cargo build --profile dist --bin annals --target-dir bench/target",
        program.display()
    );
    Ok(program)
}

/// The name of the folder of the program, which is that of its profile.
pub fn profile() -> anyhow::Result<String> {
    let program = program()?;
    let folder = program.parent().and_then(Path::file_name).context("the program is in a folder")?;
    Ok(folder.to_string_lossy().into_owned())
}

/// A running `annals dev`.
pub struct Product {
    child: Child,
    program: PathBuf,
    settings_file: PathBuf,
    settings: toml::Table,
    /// What it printed when it was ready.
    ready: Value,
    pub token: String,
}

/// A running `annals serve --roles gateway`; it ends with the value.
pub struct Gateway {
    pub child: Child,
    pub address: String,
}

impl Product {
    pub async fn start() -> anyhow::Result<Self> {
        let program = program()?;
        let mut child = Command::new(&program)
            .args(["dev", "--ephemeral", "--random-ports", "--json", "--stop-with-stdin"])
            .env("ANNALS__IDENTITY__ACCESS_TOKEN_LIFETIME_SECONDS", "3600")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // It stops with its standard input, so also when this value is dropped, and deletes its data.
            .spawn()?;
        let mut line = String::new();
        let output = child.stdout.take().context("standard output is piped")?;
        BufReader::new(output).read_line(&mut line).await?;
        let ready: Value = serde_json::from_str(&line).context("annals dev did not come up")?;
        let settings_file = Path::new(&text(&ready, "data_dir")?).join("annals.toml");
        let settings = std::fs::read_to_string(&settings_file)?.parse()?;
        let token = text(&ready, "access_token")?;
        Ok(Self { child, program, settings_file, settings, ready, token })
    }

    /// The process with all roles.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the product runs")
    }

    /// Host and port of the public listener.
    pub fn address(&self) -> anyhow::Result<String> {
        let address = self.settings["gateway"]["public_address"].as_str();
        address.map(str::to_owned).context("no address")
    }

    /// PostgreSQL's address with the superuser's password.
    pub fn database_url(&self) -> anyhow::Result<String> {
        text(&self.ready, "database_url")
    }

    /// Starts a gateway over the same servers, with further settings, and waits until it answers.
    pub async fn gateway(&self, settings: &[(&str, &str)]) -> anyhow::Result<Gateway> {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(&self.settings_file).args(["serve", "--roles", "gateway"]);
        let mut addresses = Vec::new();
        for listener in ["PUBLIC", "OPERATIONS", "ADMIN"] {
            let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
            command.env(format!("ANNALS__GATEWAY__{listener}_ADDRESS"), &address);
            addresses.push(address);
        }
        let child = command
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let address = addresses.swap_remove(0);
        wait_for_listener(&address).await?;
        Ok(Gateway { child, address })
    }

    pub async fn store(&self) -> anyhow::Result<Store> {
        let database = &self.settings["database"];
        let secret = |section: &str, key: &str| {
            let path = self.settings[section][key].as_str().unwrap_or_default();
            std::fs::read_to_string(path).with_context(|| format!("no secret in {path}"))
        };
        let config = StoreConfig {
            host: database["host"].as_str().unwrap_or("127.0.0.1").to_owned(),
            port: database["port"].as_integer().unwrap_or(0) as u16,
            database: database["name"].as_str().unwrap_or_default().to_owned(),
            runtime_password: secret("database", "runtime_password_file")?.trim().to_owned(),
            key: DeploymentKey::from_hex(secret("secrets", "deployment_key_file")?.trim())?,
            keyring: None,
            append_workers: 1,
            pool_size: 2,
            tls: store::TlsConfig::default(),
            idle_timeout: Duration::from_mins(1),
        };
        Ok(Store::connect(config).await?)
    }

    pub async fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id() {
            kill(Pid::from_raw(pid as i32), Signal::SIGTERM)?;
        }
        self.child.wait().await?;
        Ok(())
    }
}

fn text(ready: &Value, key: &str) -> anyhow::Result<String> {
    ready[key].as_str().map(str::to_owned).with_context(|| format!("no {key}"))
}

/// Waits until a process accepts connections, for 20 s at most.
pub async fn wait_for_listener(address: &str) -> anyhow::Result<()> {
    for _ in 0..400 {
        if TcpStream::connect(address).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("{address} did not answer within 20 s")
}
