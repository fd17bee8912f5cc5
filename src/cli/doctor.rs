//! `annals doctor`: whether this process can reach what it needs, in the versions it needs.

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::NoTls;

use super::{Exit, Failure, Output, key};
use crate::config::Settings;
use crate::wiring;

const OLDEST_POSTGRES: u32 = 15;

#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

impl Check {
    fn new(name: &'static str, result: Result<String, Failure>) -> Self {
        match result {
            Ok(detail) => Self { name, ok: true, detail },
            Err(failure) => Self { name, ok: false, detail: failure.to_string() },
        }
    }
}

/// Runs every check; exit code 9 when one fails.
pub async fn run(settings: &Settings, output: Output) -> Result<Exit, Failure> {
    let checks = [
        Check::new("configuration", configuration(settings)),
        Check::new("keys", key::standing(settings).await),
        Check::new("postgresql", postgresql(settings).await),
        Check::new("schema", schema(settings).await),
        Check::new("nats", nats(settings).await),
    ];
    output.rows(&["name", "ok", "detail"], &checks)?;
    Ok(if checks.iter().all(|check| check.ok) { Exit::Ok } else { Exit::Problems })
}

fn configuration(settings: &Settings) -> Result<String, Failure> {
    match settings.problems(true).into_iter().next() {
        Some(problem) => Err(problem.into()),
        None => Ok(settings.file.as_ref().map_or("defaults".to_owned(), |file| file.display().to_string())),
    }
}

/// Signs in as one of the runtime roles and asks for version and durability.
async fn postgresql(settings: &Settings) -> Result<String, Failure> {
    let database = &settings.database;
    let (client, connection) = tokio_postgres::Config::new()
        .host(&database.host)
        .port(database.port)
        .dbname(&database.name)
        .user("annals_worker")
        .password(database.runtime_password()?.reveal())
        .connect_timeout(Duration::from_secs(5))
        .connect(NoTls)
        .await
        .map_err(anyhow::Error::from)?;
    let version = connection.parameter("server_version").unwrap_or_default().to_owned();
    tokio::spawn(connection);
    if major(&version) < OLDEST_POSTGRES {
        return Err(
            anyhow::anyhow!("version {version} is too old, {OLDEST_POSTGRES} or later is needed").into()
        );
    }
    for setting in ["fsync", "synchronous_commit"] {
        let row = client.query_one(&format!("show {setting}"), &[]).await.map_err(anyhow::Error::from)?;
        if row.get::<_, &str>(0) == "off" {
            return Err(anyhow::anyhow!("{setting} is off: what is acknowledged may be lost").into());
        }
    }
    Ok(format!("version {version} at {}:{}", database.host, database.port))
}

/// 15 of `15.18 (Debian 15.18-0+deb12u1)`, and of `15beta1`.
fn major(version: &str) -> u32 {
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().unwrap_or(0)
}

async fn schema(settings: &Settings) -> Result<String, Failure> {
    let store = wiring::connect(settings).await?;
    let tenants = store.heads().await;
    store.shutdown().await;
    Ok(format!("{} tenants", tenants?.len()))
}

async fn nats(settings: &Settings) -> Result<String, Failure> {
    let nats = wiring::connect_nats(settings).await?;
    let stream = nats.event_stream().await.map_err(anyhow::Error::from)?;
    let version = nats.client().server_info().version.clone();
    Ok(format!("version {version}, {} messages in {}", stream.state.messages, stream.config.name))
}
