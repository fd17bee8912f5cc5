//! `annals doctor`: whether this process can reach what it needs, in the versions it needs.

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::NoTls;

use super::{Exit, Failure, Output};
use crate::config::Settings;
use crate::wiring;

const OLDEST_POSTGRES: i32 = 150_000;

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
        Check::new("postgresql", postgresql(settings).await),
        Check::new("schema", schema(settings).await),
        Check::new("nats", nats(settings).await),
    ];
    output.rows(&["name", "ok", "detail"], &checks)?;
    Ok(if checks.iter().all(|check| check.ok) { Exit::Ok } else { Exit::Problems })
}

fn configuration(settings: &Settings) -> Result<String, Failure> {
    match settings.problems().into_iter().next() {
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
    tokio::spawn(connection);
    let sql = "select current_setting('server_version'), current_setting('server_version_num')::int,
               current_setting('fsync'), current_setting('synchronous_commit')";
    let row = client.query_one(sql, &[]).await.map_err(anyhow::Error::from)?;
    let (version, number): (&str, i32) = (row.get(0), row.get(1));
    let (fsync, commit): (&str, &str) = (row.get(2), row.get(3));
    if number < OLDEST_POSTGRES {
        return Err(anyhow::anyhow!("version {version} is too old, 15 or later is needed").into());
    }
    if fsync != "on" || commit == "off" {
        let found = format!("fsync is {fsync} and synchronous_commit {commit}");
        return Err(anyhow::anyhow!("{found}: what is acknowledged may be lost").into());
    }
    Ok(format!("version {version} at {}:{}", database.host, database.port))
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
