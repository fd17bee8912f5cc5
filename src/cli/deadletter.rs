//! `annals deadletter`: what sagas and projections gave up, and asking them to try again.

use clap::Subcommand;
use sagas::RetryOutcome;
use schemas::engine::TenantSlug;
use schemas::engine::recorded::timestamp;
use serde::Serialize;
use store::{DeadLetter, DeadLetterStatus, Store};
use uuid::Uuid;

use super::{Exit, Failure, Output, projection, tenant};
use crate::config::Settings;
use crate::wiring;

/// `annals deadletter ...`
#[derive(Debug, Subcommand)]
pub enum Deadletter {
    /// List the dead letters, oldest first
    Ls {
        /// Of this tenant only
        #[arg(long, value_parser = |text: &str| TenantSlug::parse(text))]
        tenant: Option<TenantSlug>,
        /// Those too that are resolved or discarded
        #[arg(long)]
        all: bool,
    },
    /// Have one tried again
    Retry {
        /// Its id
        id: Uuid,
    },
}

const COLUMNS: [&str; 9] =
    ["id", "tenant", "consumer", "position", "subject", "status", "attempts", "error_code", "last_at"];

#[derive(Serialize)]
struct Row {
    id: Uuid,
    tenant: String,
    consumer: String,
    position: u64,
    event_id: Option<Uuid>,
    subject: String,
    status: &'static str,
    attempts: u32,
    error_code: String,
    error: String,
    history: serde_json::Value,
    first_at: String,
    last_at: String,
}

impl Row {
    fn new(letter: DeadLetter, tenant: String) -> Self {
        Self {
            id: letter.id,
            tenant,
            consumer: letter.consumer,
            position: letter.position,
            event_id: letter.event_id,
            subject: letter.subject,
            status: letter.status.as_str(),
            attempts: letter.attempts,
            error_code: letter.error_code,
            error: letter.error,
            history: letter.history,
            first_at: timestamp(letter.first_at),
            last_at: timestamp(letter.last_at),
        }
    }
}

impl Deadletter {
    /// Runs it.
    pub async fn run(self, settings: &Settings, output: Output) -> Result<Exit, Failure> {
        let store = wiring::connect(settings).await?;
        let done = match self {
            Self::Ls { tenant, all } => list(&store, tenant, all, output).await,
            Self::Retry { id } => retry(&store, id, output).await,
        };
        store.shutdown().await;
        done
    }
}

async fn list(store: &Store, tenant: Option<TenantSlug>, all: bool, output: Output) -> Result<Exit, Failure> {
    const PAGE: u32 = 500;
    let tenant = match tenant {
        Some(slug) => Some(tenant::find(store, &slug).await?.id),
        None => None,
    };
    let mut letters = Vec::new();
    let mut after = None;
    loop {
        let page = store.dead_letters(tenant, after, PAGE).await?;
        after = page.last().map(|letter| letter.id);
        let full = page.len() == PAGE as usize;
        letters.extend(page.into_iter().filter(|letter| all || is_unsettled(letter)));
        if !full {
            break;
        }
    }
    let slugs = projection::slugs(store, letters.iter().map(|letter| letter.tenant)).await?;
    let rows: Vec<Row> = letters
        .into_iter()
        .map(|letter| {
            let tenant =
                slugs.get(&letter.tenant).map_or_else(|| letter.tenant.to_string(), ToString::to_string);
            Row::new(letter, tenant)
        })
        .collect();
    output.rows(&COLUMNS, &rows)?;
    Ok(Exit::Ok)
}

fn is_unsettled(letter: &DeadLetter) -> bool {
    matches!(letter.status, DeadLetterStatus::Open | DeadLetterStatus::Retrying)
}

async fn retry(store: &Store, id: Uuid, output: Output) -> Result<Exit, Failure> {
    match sagas::retry_dead_letter(store, id).await? {
        RetryOutcome::Retrying => {}
        RetryOutcome::Settled(status) => {
            let settled = anyhow::anyhow!("the dead letter is {} already", status.as_str());
            return Err(Failure::new(Exit::Conflict, settled));
        }
        RetryOutcome::NotFound => return Err(Failure::not_found("dead letter", id)),
    }
    let letter = store.dead_letter(id).await?.ok_or_else(|| Failure::not_found("dead letter", id))?;
    let slugs = projection::slugs(store, std::iter::once(letter.tenant)).await?;
    let tenant = slugs.get(&letter.tenant).map_or_else(|| letter.tenant.to_string(), ToString::to_string);
    output.object(&COLUMNS, &Row::new(letter, tenant))?;
    Ok(Exit::Ok)
}
