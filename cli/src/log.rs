//! `annals log`: lists the tenants' logs with their ids, and replaces a log after its database was restored.

use clap::{Args, Subcommand};
use schemas::engine::{Actor, LogId, TenantSlug, recorded::timestamp};
use serde::Serialize;
use store::{ReplacedLog, Replacement, Store};

use super::{operator_audit, projection, tenant};
use crate::failure::Failure;
use settings::Settings;
use terminal::{Exit, Output};

/// `annals log ...`
#[derive(Debug, Subcommand)]
pub enum Log {
    /// List the logs: those that the tenants have, and those that were replaced
    Ls {
        /// Of this tenant only
        #[arg(long, value_parser = |text: &str| TenantSlug::parse(text))]
        tenant: Option<TenantSlug>,
    },
    /// Replace a log: it continues under a new log id. For use after a restore, when clients may hold positions of lost
    /// events
    Replace(Replace),
}

/// `annals log replace ...`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["tenant", "all"]))]
pub struct Replace {
    /// The tenant whose log is replaced
    #[arg(long, value_parser = |text: &str| TenantSlug::parse(text))]
    tenant: Option<TenantSlug>,
    /// Every tenant's log
    #[arg(long)]
    all: bool,
    /// The reason; it is recorded as an event in the new log
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

const COLUMNS: [&str; 8] =
    ["tenant", "log_id", "status", "position", "next_log_id", "published_to", "signed_to", "replaced_at"];

#[derive(Serialize)]
struct TenantLogLine {
    tenant: String,
    log_id: LogId,
    status: &'static str,
    /// The last position. For a replaced log, the last position that the next log kept.
    position: u64,
    next_log_id: Option<LogId>,
    published_to: Option<u64>,
    /// The size of the signed checkpoint in the event that records the replacement.
    signed_to: Option<u64>,
    reason: Option<String>,
    replaced_at: Option<String>,
}

impl TenantLogLine {
    fn replaced(log: ReplacedLog, tenant: String) -> Self {
        Self {
            tenant,
            log_id: log.log_id,
            status: "replaced",
            position: log.last_position,
            next_log_id: Some(log.next_log_id),
            published_to: log.published_to,
            signed_to: log.signed_to,
            reason: Some(log.reason),
            replaced_at: Some(timestamp(log.replaced_at)),
        }
    }
}

impl Log {
    /// Runs it.
    pub async fn run(self, settings: &Settings, output: Output) -> Result<Exit, Failure> {
        let store = wiring::connect(settings).await?;
        let done = match self {
            Self::Ls { tenant } => list(&store, tenant, output).await,
            Self::Replace(replace) => replace.run(settings, &store, output).await,
        };
        store.shutdown().await;
        done
    }
}

async fn list(store: &Store, tenant: Option<TenantSlug>, output: Output) -> Result<Exit, Failure> {
    let tenant = match tenant {
        Some(slug) => Some(tenant::find(store, &slug).await?.id),
        None => None,
    };
    operator_audit::record_access(store, tenant).await?;
    let wanted = |id| tenant.is_none_or(|tenant| tenant == id);
    let heads = store.heads().await?;
    let replaced = store.replaced_logs().await?;
    let slugs = projection::slugs(store, heads.iter().map(|head| head.tenant)).await?;
    let name = |id| slugs.get(&id).map_or_else(|| id.to_string(), ToString::to_string);
    let mut rows: Vec<TenantLogLine> = replaced
        .into_iter()
        .filter(|log| wanted(log.tenant))
        .map(|log| {
            let tenant = name(log.tenant);
            TenantLogLine::replaced(log, tenant)
        })
        .collect();
    rows.extend(heads.into_iter().filter(|head| wanted(head.tenant)).map(|head| TenantLogLine {
        tenant: name(head.tenant),
        log_id: head.log_id,
        status: "current",
        position: head.position,
        next_log_id: None,
        published_to: None,
        signed_to: None,
        reason: None,
        replaced_at: None,
    }));
    // Rows of one tenant are grouped, in order of creation.
    rows.sort_by(|one, other| one.tenant.cmp(&other.tenant));
    output.rows(&COLUMNS, &rows)?;
    Ok(Exit::Ok)
}

impl Replace {
    async fn run(self, settings: &Settings, store: &Store, output: Output) -> Result<Exit, Failure> {
        let reason = self.reason.trim();
        if reason.is_empty() || reason.len() > 1_000 {
            return Err(Failure::usage(anyhow::anyhow!("--reason is a text of 1 to 1,000 bytes")));
        }
        let one = match &self.tenant {
            Some(slug) => Some(tenant::find(store, slug).await?.id),
            None => None,
        };
        let heads = store.heads().await?;
        let mut wanted: Vec<Replacement> = heads
            .iter()
            .filter(|head| one.is_none_or(|one| one == head.tenant))
            .map(|head| Replacement::of(head.tenant, head.log_id))
            .collect();
        operator_audit::record_access(store, wanted.iter().map(|log| log.tenant)).await?;
        let slugs = projection::slugs(store, wanted.iter().map(|log| log.tenant)).await?;
        let slug = |tenant| slugs.get(&tenant).cloned();
        for error in wiring::collect_checkpoints(settings, &mut wanted, slug).await {
            eprintln!("a newer checkpoint than the database's may not be cited: {error:#}");
        }
        let replaced = store.replace_logs(&wanted, reason, &Actor::system("cli")).await?;
        let rows: Vec<TenantLogLine> = replaced
            .into_iter()
            .map(|log| {
                let tenant =
                    slugs.get(&log.tenant).map_or_else(|| log.tenant.to_string(), ToString::to_string);
                TenantLogLine::replaced(log, tenant)
            })
            .collect();
        output.rows(&COLUMNS, &rows)?;
        if rows.len() < wanted.len() {
            return Err(Failure::new(
                Exit::Conflict,
                anyhow::anyhow!(
                    "some logs were replaced by somebody else at the same time; `annals log ls` shows them"
                ),
            ));
        }
        Ok(Exit::Ok)
    }
}
