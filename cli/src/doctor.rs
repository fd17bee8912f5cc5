//! `annals doctor`: checks that this process reaches the servers that it needs, in supported versions.

use serde::Serialize;

use super::{config, key};
use crate::failure::Failure;
use settings::Settings;
use terminal::{Exit, Output};
use wiring::{self, ProcessRole};

const POSTGRES_MAJOR_MIN: u32 = 15;

#[derive(Serialize)]
struct CheckLine {
    name: &'static str,
    ok: bool,
    detail: String,
}

impl CheckLine {
    fn new(name: &'static str, result: Result<String, Failure>) -> Self {
        match result {
            Ok(detail) => Self { name, ok: true, detail },
            Err(failure) => Self { name, ok: false, detail: failure.to_string() },
        }
    }
}

/// Runs every check; exit code 9 when one fails.
pub async fn run(settings: &Settings, output: Output) -> Result<Exit, Failure> {
    let mut checks = configuration(settings).await;
    checks.extend([
        CheckLine::new("keys", key::root_key_status(settings).await),
        CheckLine::new("postgresql", postgresql(settings).await),
        CheckLine::new("schema", schema(settings).await),
        CheckLine::new("connections", connection_usage(settings).await),
        CheckLine::new("nats", nats(settings).await),
    ]);
    output.rows(&["name", "ok", "detail"], &checks)?;
    Ok(if checks.iter().all(|check| check.ok) { Exit::Ok } else { Exit::CheckFailed })
}

/// One line without problems, or one line for each problem.
async fn configuration(settings: &Settings) -> Vec<CheckLine> {
    let name = "configuration";
    let problems = config::problems(settings, &ProcessRole::ALL).await;
    if problems.is_empty() {
        let source = settings.file.as_ref().map_or("defaults".to_owned(), |file| file.display().to_string());
        return vec![CheckLine { name, ok: true, detail: source }];
    }
    problems.into_iter().map(|detail| CheckLine { name, ok: false, detail }).collect()
}

/// Logs in as one of the runtime roles and checks version and durability.
async fn postgresql(settings: &Settings) -> Result<String, Failure> {
    let connection =
        database::connect(&wiring::worker_login(settings)?).await.map_err(anyhow::Error::from)?;
    let client = &connection.client;
    let shown = async |setting: &str| {
        let row = client.query_one(&format!("show {setting}"), &[]).await.map_err(anyhow::Error::from)?;
        Ok::<_, Failure>(row.get::<_, String>(0))
    };
    let version = shown("server_version").await?;
    if major(&version) < POSTGRES_MAJOR_MIN {
        return Err(
            anyhow::anyhow!("version {version} is too old, {POSTGRES_MAJOR_MIN} or later is needed").into()
        );
    }
    for setting in ["fsync", "synchronous_commit"] {
        if shown(setting).await? == "off" {
            return Err(anyhow::anyhow!("{setting} is off: what is acknowledged may be lost").into());
        }
    }
    let database = &settings.database;
    Ok(format!("version {version} at {}:{}, TLS {}", database.host, database.port, database.tls))
}

/// The major version: 15 of `15.18 (Debian 15.18-0+deb12u1)` and of `15beta1`.
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

/// Maximum connections of the product's processes, and the present number.
async fn connection_usage(settings: &Settings) -> Result<String, Failure> {
    let store = wiring::connect(settings).await?;
    let found = store.connections().await;
    store.shutdown().await;
    let found = found?;
    let all = wiring::connections_max(settings, &ProcessRole::ALL);
    let each = ProcessRole::ALL
        .map(|role| format!("{} {}", ProcessRole::list(&[role]), wiring::connections_max(settings, &[role])));
    let detail = format!(
        "{} of {} are open, {} of them by annals; a process opens at most: all roles {all}, {}",
        found.open,
        found.max,
        found.by_annals,
        each.join(", ")
    );
    if all > found.max {
        return Err(anyhow::anyhow!("{detail}; raise max_connections or lower database.pool_size").into());
    }
    Ok(detail)
}

async fn nats(settings: &Settings) -> Result<String, Failure> {
    let nats = wiring::connect_nats(settings).await?;
    let stream = nats.event_stream().await.map_err(anyhow::Error::from)?;
    let version = nats.client().server_info().version.clone();
    Ok(format!("version {version}, {} messages in {}", stream.state.messages, stream.config.name))
}
