//! `annals deadletter`: dead letters of sagas and projections, which can be retried or discarded.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use clap::Subcommand;
use sagas::{DiscardOutcome, RetryOutcome};
use schemas::engine::TenantSlug;
use schemas::engine::recorded::timestamp;
use serde::Serialize;
use store::{DeadLetter, DeadLetterStatus, Store};
use uuid::Uuid;

use super::{operator_audit, projection, tenant};
use crate::failure::Failure;
use settings::Settings;
use terminal::ignore_broken_pipe;
use terminal::{Exit, Output};

/// `annals deadletter ...`
#[derive(Debug, Subcommand)]
pub enum Deadletter {
    /// List the dead letters, oldest first
    Ls {
        /// Of this tenant only
        #[arg(long, value_parser = |text: &str| TenantSlug::parse(text))]
        tenant: Option<TenantSlug>,
        /// Include resolved and discarded ones
        #[arg(long)]
        all: bool,
    },
    /// Show one with everything that happened to it
    Show {
        /// Its id
        id: Uuid,
    },
    /// Retry one
    Retry {
        /// Its id
        id: Uuid,
    },
    /// Discard one: a read model skips the event, a saga closes the step
    Discard {
        /// Its id
        id: Uuid,
    },
}

const COLUMNS: [&str; 9] =
    ["id", "tenant", "consumer", "position", "subject", "status", "attempts", "error_code", "last_at"];

#[derive(Serialize)]
struct DeadLetterLine {
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

impl DeadLetterLine {
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
            Self::Show { id } | Self::Retry { id } | Self::Discard { id } => {
                match audit_letter_access(&store, id).await {
                    Err(failure) => Err(failure),
                    Ok(()) => match self {
                        Self::Retry { .. } => retry(&store, id, output).await,
                        Self::Discard { .. } => discard(&store, id, output).await,
                        _ => show(&store, id, output).await,
                    },
                }
            }
        };
        store.shutdown().await;
        done
    }
}

async fn list(store: &Store, tenant: Option<TenantSlug>, all: bool, output: Output) -> Result<Exit, Failure> {
    const PAGE_SIZE: u32 = 500;
    let tenant = match tenant {
        Some(slug) => Some(tenant::find(store, &slug).await?.id),
        None => None,
    };
    let mut letters = Vec::new();
    let mut after = None;
    loop {
        let page = store.dead_letters(tenant, after, PAGE_SIZE).await?;
        after = page.last().map(|letter| letter.id);
        let full = page.len() == PAGE_SIZE as usize;
        letters.extend(page.into_iter().filter(|letter| all || is_unsettled(letter)));
        if !full {
            break;
        }
    }
    operator_audit::record_access(store, letters.iter().map(|letter| letter.tenant).chain(tenant)).await?;
    let slugs = projection::slugs(store, letters.iter().map(|letter| letter.tenant)).await?;
    let rows: Vec<DeadLetterLine> = letters
        .into_iter()
        .map(|letter| {
            let tenant =
                slugs.get(&letter.tenant).map_or_else(|| letter.tenant.to_string(), ToString::to_string);
            DeadLetterLine::new(letter, tenant)
        })
        .collect();
    output.rows(&COLUMNS, &rows)?;
    Ok(Exit::Ok)
}

/// Records the access in the activity log of the letter's tenant.
async fn audit_letter_access(store: &Store, id: Uuid) -> Result<(), Failure> {
    let letter = store.dead_letter(id).await?.ok_or_else(|| not_found(id))?;
    operator_audit::record_access(store, [letter.tenant]).await
}

fn is_unsettled(letter: &DeadLetter) -> bool {
    matches!(letter.status, DeadLetterStatus::Open | DeadLetterStatus::Retrying)
}

async fn retry(store: &Store, id: Uuid, output: Output) -> Result<Exit, Failure> {
    match sagas::retry_dead_letter(store, id).await? {
        RetryOutcome::Retrying => {}
        RetryOutcome::Settled(status) => return Err(already_settled(status)),
        RetryOutcome::NotFound => return Err(not_found(id)),
    }
    output.object(&COLUMNS, &row(store, id).await?)?;
    Ok(Exit::Ok)
}

async fn discard(store: &Store, id: Uuid, output: Output) -> Result<Exit, Failure> {
    match sagas::discard_dead_letter(store, id).await? {
        DiscardOutcome::Discarded => {}
        DiscardOutcome::Settled(status) => return Err(already_settled(status)),
        DiscardOutcome::NotFound => return Err(not_found(id)),
    }
    output.object(&COLUMNS, &row(store, id).await?)?;
    Ok(Exit::Ok)
}

async fn show(store: &Store, id: Uuid, output: Output) -> Result<Exit, Failure> {
    let row = row(store, id).await?;
    if output != Output::Table {
        output.object(&COLUMNS, &row)?;
        return Ok(Exit::Ok);
    }
    let event = row.event_id.map(|id| id.to_string()).unwrap_or_default();
    let (position, attempts) = (row.position.to_string(), row.attempts.to_string());
    let fields = [
        ("id", row.id.to_string()),
        ("tenant", row.tenant),
        ("consumer", row.consumer),
        ("position", position),
        ("event", event),
        ("subject", row.subject),
        ("status", row.status.to_owned()),
        ("attempts", attempts),
        ("error code", row.error_code),
        ("error", row.error),
        ("first at", row.first_at),
        ("last at", row.last_at),
    ];
    let mut text = String::new();
    for (name, value) in fields {
        writeln!(text, "{name:<11} {value}").expect("writing to a string");
    }
    text.push_str("history\n");
    for attempt in row.history.as_array().into_iter().flatten() {
        let part = |name: &str| attempt[name].as_str().unwrap_or_default().to_owned();
        // Sagas set a message, projections an error.
        let message = part("message") + &part("error");
        writeln!(text, "  {}  {}  {message}", part("at"), part("code")).expect("writing to a string");
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).or_else(ignore_broken_pipe)?;
    Ok(Exit::Ok)
}

async fn row(store: &Store, id: Uuid) -> Result<DeadLetterLine, Failure> {
    let letter = store.dead_letter(id).await?.ok_or_else(|| not_found(id))?;
    let slugs = projection::slugs(store, std::iter::once(letter.tenant)).await?;
    let tenant = slugs.get(&letter.tenant).map_or_else(|| letter.tenant.to_string(), ToString::to_string);
    Ok(DeadLetterLine::new(letter, tenant))
}

fn not_found(id: Uuid) -> Failure {
    Failure::not_found("dead letter", id)
}

fn already_settled(status: DeadLetterStatus) -> Failure {
    Failure::new(Exit::Conflict, anyhow::anyhow!("the dead letter is {} already", status.as_str()))
}
