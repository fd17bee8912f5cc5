//! `annals projection`: lists read models, pauses and rebuilds them, and shows historical states.

mod history;

use std::collections::HashMap;

use clap::{Args, Subcommand};
use projections::{Difference, ProjectionLag, ProjectionState, RebuildError, RebuildReport};
use schemas::engine::{TenantId, TenantSlug};
use serde::Serialize;
use store::Store;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::progress::ProgressReporter;
use super::{operator_audit, tenant};
use crate::failure::Failure;
use crate::signals;
use settings::Settings;
use terminal::{Exit, Output};

/// `annals projection ...`
#[derive(Debug, Subcommand)]
pub enum Projection {
    /// List the read models of every tenant with their state and lag
    Ls,
    /// Rebuild a read model in its idle table, compare both tables, and switch; reads never stop
    Rebuild {
        #[command(flatten)]
        which: ReadModelArgument,
        /// Switch although the versions differ
        #[arg(long)]
        force: bool,
    },
    /// Show a historical state of a tenant's read model, computed from the log
    Replay(history::Replay),
    /// Show which rows of a tenant's read model differ between two moments, or from the present rows
    Diff(history::Diff),
    /// Rewrite the tables of all read models, so that no old versions of rows remain, such as those of erased people;
    /// each table is locked meanwhile
    Compact,
    /// Pause a read model: it stays readable but is not updated
    Pause(ReadModelArgument),
    /// Resume a paused read model
    Resume(ReadModelArgument),
}

/// A read model of all tenants or of one.
#[derive(Debug, Args)]
pub struct ReadModelArgument {
    /// The read model: `customers` or `customers.v2`
    name: String,
    /// Of this tenant only
    #[arg(long, value_parser = |text: &str| TenantSlug::parse(text))]
    tenant: Option<TenantSlug>,
}

const COLUMNS: [&str; 6] = ["projection", "tenant", "state", "position", "head", "lag"];
const REBUILD_COLUMNS: [&str; 7] =
    ["projection", "tenant", "outcome", "position", "generation", "differences", "error"];

#[derive(Serialize)]
struct ProjectionLine {
    projection: String,
    tenant: String,
    state: String,
    dead_letter: Option<Uuid>,
    rebuilt: Option<u64>,
    position: u64,
    head: u64,
    lag: u64,
}

impl ProjectionLine {
    fn new(lag: ProjectionLag, slugs: &HashMap<TenantId, TenantSlug>) -> Self {
        let (state, dead_letter, rebuilt) = match lag.state {
            ProjectionState::Live => ("live".to_owned(), None, None),
            ProjectionState::Rebuilding { position, .. } => ("rebuilding".to_owned(), None, Some(position)),
            ProjectionState::Paused => ("paused".to_owned(), None, None),
            ProjectionState::Stopped { dead_letter } => {
                (format!("stopped by dead letter {dead_letter}"), Some(dead_letter), None)
            }
            ProjectionState::Waiting { event_type } => {
                (format!("waits for a newer version that knows {event_type}"), None, None)
            }
            ProjectionState::OtherLog => ("of a log that was replaced".to_owned(), None, None),
        };
        Self {
            tenant: slug(slugs, lag.tenant),
            projection: lag.projection,
            state,
            dead_letter,
            rebuilt,
            position: lag.position,
            head: lag.head,
            lag: lag.head.saturating_sub(lag.position),
        }
    }
}

#[derive(Serialize)]
struct RebuildLine {
    projection: &'static str,
    tenant: String,
    /// One of `switched`, `differs`, `cancelled`, `busy` and `failed`.
    outcome: &'static str,
    position: Option<u64>,
    generation: Option<u64>,
    compared: bool,
    differences: u64,
    shown: Vec<Difference>,
    error: Option<String>,
}

impl Projection {
    /// Runs it.
    pub async fn run(
        self,
        settings: impl Fn() -> Result<Settings, Failure>,
        output: Output,
    ) -> Result<Exit, Failure> {
        match self {
            Self::Ls => with_store(settings, async |store| list(store, output, |_| true).await).await,
            Self::Rebuild { which, force } => {
                with_store(settings, async |store| which.rebuild(store, force, output).await).await
            }
            Self::Compact => compact(&settings()?, output).await,
            Self::Replay(replay) => replay.run(settings, output).await,
            Self::Diff(diff) => diff.run(settings, output).await,
            Self::Pause(which) => {
                with_store(settings, async |store| which.set_paused(store, true, output).await).await
            }
            Self::Resume(which) => {
                with_store(settings, async |store| which.set_paused(store, false, output).await).await
            }
        }
    }
}

/// Runs the commands that need the database.
async fn with_store(
    settings: impl Fn() -> Result<Settings, Failure>,
    work: impl AsyncFnOnce(&Store) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let store = wiring::connect(&settings()?).await?;
    let done = work(&store).await;
    store.shutdown().await;
    done
}

/// Needs the owner of the database, like `annals migrate`.
async fn compact(settings: &Settings, output: Output) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct CompactedLine {
        table: String,
    }
    let mut tables = Vec::new();
    wiring::compact(settings, |table| {
        eprintln!("{table} is written anew");
        tables.push(CompactedLine { table: table.to_owned() });
    })
    .await?;
    output.rows(&["table"], &tables)?;
    Ok(Exit::Ok)
}

async fn list(
    store: &Store,
    output: Output,
    wanted: impl Fn(&ProjectionLag) -> bool,
) -> Result<Exit, Failure> {
    let lags = projections::lag(store).await?;
    let slugs = slugs(store, lags.iter().map(|lag| lag.tenant)).await?;
    let rows: Vec<ProjectionLine> =
        lags.into_iter().filter(wanted).map(|lag| ProjectionLine::new(lag, &slugs)).collect();
    output.rows(&COLUMNS, &rows)?;
    Ok(Exit::Ok)
}

impl ReadModelArgument {
    fn checkpoint(&self) -> Result<&'static str, Failure> {
        projections::find(&self.name).ok_or_else(|| Failure::not_found("read model", &self.name))
    }

    async fn tenant(&self, store: &Store) -> Result<Option<TenantId>, Failure> {
        match &self.tenant {
            Some(slug) => Ok(Some(tenant::find(store, slug).await?.id)),
            None => Ok(None),
        }
    }

    /// Pauses or resumes. A second call changes nothing.
    async fn set_paused(&self, store: &Store, paused: bool, output: Output) -> Result<Exit, Failure> {
        let checkpoint = self.checkpoint()?;
        let tenant = self.tenant(store).await?;
        let concerned = match tenant {
            Some(tenant) => vec![tenant],
            None => store.heads().await?.into_iter().map(|head| head.tenant).collect(),
        };
        operator_audit::record_access(store, concerned).await?;
        if let Some(tenant) = tenant {
            let transaction = store.tenant(tenant).begin_worker_transaction().await?;
            transaction.set_paused(checkpoint, paused).await?;
            transaction.commit().await?;
            if !paused && store.paused_tenants(checkpoint).await?.contains(&None) {
                let all = anyhow::anyhow!("{checkpoint} is paused for all tenants");
                return Err(Failure::new(Exit::Conflict, all));
            }
        } else {
            store.set_paused_for_all(checkpoint, paused).await?;
        }
        let wanted = |lag: &ProjectionLag| {
            lag.projection == checkpoint && tenant.is_none_or(|tenant| lag.tenant == tenant)
        };
        list(store, output, wanted).await
    }

    async fn rebuild(&self, store: &Store, force: bool, output: Output) -> Result<Exit, Failure> {
        let checkpoint = self.checkpoint()?;
        let mut stop = signals::StopSignal::listen()?;
        let heads = store.heads().await?;
        let tenant = self.tenant(store).await?;
        let heads: Vec<_> =
            heads.iter().filter(|head| tenant.is_none_or(|tenant| tenant == head.tenant)).collect();
        let tenants: Vec<TenantId> = heads.iter().map(|head| head.tenant).collect();
        operator_audit::record_access(store, tenants.iter().copied()).await?;
        let bar = ProgressReporter::new(checkpoint, heads.iter().map(|head| head.position).sum());
        let cancel = CancellationToken::new();
        let progress = |position, _| bar.at(position);
        let work = projections::rebuild(store, checkpoint, &tenants, force, &progress, &cancel);
        tokio::pin!(work);
        let done = tokio::select! {
            done = &mut work => done,
            () = stop.requested() => {
                cancel.cancel();
                eprintln!("cancelling; the version that serves stays");
                // Cancelling removes what was built. A second signal skips that.
                tokio::select! {
                    done = work => done,
                    () = stop.requested() => return Err(Failure::new(Exit::Failed, RebuildError::Cancelled)),
                }
            }
        };
        bar.end();
        let slugs = slugs(store, tenants.iter().copied()).await?;
        let exit = done.iter().map(|(_, done)| exit_for(done)).max_by_key(|exit| *exit as u8);
        let rows: Vec<RebuildLine> = done
            .into_iter()
            .map(|(tenant, done)| rebuild_line(checkpoint, slug(&slugs, tenant), done))
            .collect();
        if output == Output::Table {
            for row in &rows {
                for Difference { id, kind, columns } in &row.shown {
                    eprintln!("{}: {id} is {kind} {}", row.tenant, columns.join(", "));
                }
            }
        }
        output.rows(&REBUILD_COLUMNS, &rows)?;
        Ok(exit.unwrap_or(Exit::Ok))
    }
}

fn exit_for(done: &Result<RebuildReport, RebuildError>) -> Exit {
    match done {
        Ok(RebuildReport { switched: true, .. }) => Exit::Ok,
        Ok(_) => Exit::CheckFailed,
        Err(RebuildError::Unknown(_)) => Exit::NotFound,
        Err(RebuildError::Busy) => Exit::Conflict,
        Err(RebuildError::Store(error)) if error.is_unavailable() => Exit::Unavailable,
        Err(_) => Exit::Failed,
    }
}

fn rebuild_line(
    projection: &'static str,
    tenant: String,
    done: Result<RebuildReport, RebuildError>,
) -> RebuildLine {
    match done {
        Ok(RebuildReport { switched, position, generation, compared, differences }) => RebuildLine {
            projection,
            tenant,
            outcome: if switched { "switched" } else { "differs" },
            position: Some(position),
            generation: Some(generation),
            compared,
            differences: differences.count,
            shown: differences.shown,
            error: None,
        },
        Err(error) => RebuildLine {
            projection,
            tenant,
            outcome: match error {
                RebuildError::Cancelled => "cancelled",
                RebuildError::Busy => "busy",
                _ => "failed",
            },
            position: None,
            generation: None,
            compared: false,
            differences: 0,
            shown: Vec::new(),
            error: Some(error.to_string()),
        },
    }
}

fn slug(slugs: &HashMap<TenantId, TenantSlug>, tenant: TenantId) -> String {
    slugs.get(&tenant).map_or_else(|| tenant.to_string(), ToString::to_string)
}

/// The slugs of tenants.
pub async fn slugs(
    store: &Store,
    tenants: impl Iterator<Item = TenantId>,
) -> Result<HashMap<TenantId, TenantSlug>, Failure> {
    let mut slugs = HashMap::new();
    for tenant in tenants {
        if !slugs.contains_key(&tenant)
            && let Some(record) = store.tenant_by_id(tenant).await?
        {
            slugs.insert(tenant, record.slug.clone());
        }
    }
    Ok(slugs)
}
