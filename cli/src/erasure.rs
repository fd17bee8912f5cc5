//! `annals erasure`: prints the list of erasures for a backup, and requests the erasures of such a list again.

use std::collections::HashMap;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use commands::{Decider, Subject};
use schemas::engine::{StreamName, TenantId, TenantSlug};
use schemas::privacy::subject::ErasureStatus;
use serde::{Deserialize, Serialize};
use store::Store;
use uuid::Uuid;

use super::{operator_audit, projection, tenant};
use crate::failure::Failure;
use settings::Settings;
use terminal::{Exit, Output};

/// Subjects read at a time.
const PAGE_SIZE: u32 = 500;

/// `annals erasure ...`
#[derive(Debug, Subcommand)]
pub enum Erasure {
    /// List the requested erasures; with `--output jsonl` the output is a file for `repeat`
    Ls {
        /// Of this tenant only
        #[arg(long, value_parser = |text: &str| TenantSlug::parse(text))]
        tenant: Option<TenantSlug>,
    },
    /// Request the erasures of a list again, after a restore. Known ones change nothing
    Repeat(Repeat),
}

/// `annals erasure repeat ...`
#[derive(Debug, Args)]
pub struct Repeat {
    /// One JSON object a line: `{"tenant": ..., "subject": ...}`; other fields are ignored
    file: PathBuf,
    /// The tenant of lines that name none
    #[arg(long, value_parser = |text: &str| TenantSlug::parse(text))]
    tenant: Option<TenantSlug>,
}

const COLUMNS: [&str; 3] = ["tenant", "subject", "status"];

#[derive(Serialize)]
struct ErasureLine {
    tenant: String,
    subject: Uuid,
    status: &'static str,
}

/// The fields of a line in a list.
#[derive(Deserialize)]
struct ListEntry {
    tenant: Option<TenantSlug>,
    subject: Uuid,
}

impl Erasure {
    /// Runs it.
    pub async fn run(self, settings: &Settings, output: Output) -> Result<Exit, Failure> {
        let store = wiring::connect(settings).await?;
        let done = match self {
            Self::Ls { tenant } => list(&store, tenant, output).await,
            Self::Repeat(repeat) => repeat.run(&store, output).await,
        };
        store.shutdown().await;
        done
    }
}

async fn list(store: &Store, tenant: Option<TenantSlug>, output: Output) -> Result<Exit, Failure> {
    let tenants: Vec<TenantId> = match tenant {
        Some(slug) => vec![tenant::find(store, &slug).await?.id],
        None => store.heads().await?.iter().map(|head| head.tenant).collect(),
    };
    operator_audit::record_access(store, tenants.iter().copied()).await?;
    let slugs = projection::slugs(store, tenants.iter().copied()).await?;
    let executor = wiring::executor(store);
    let mut rows = Vec::new();
    for tenant in tenants {
        let name = slugs.get(&tenant).map_or_else(|| tenant.to_string(), ToString::to_string);
        let mut after: Option<StreamName> = None;
        loop {
            let beginning = format!("{}/", Subject::CATEGORY);
            let streams = store.tenant(tenant).streams(&beginning, after.as_ref(), PAGE_SIZE).await?;
            for subject in streams.iter().filter_map(StreamName::uuid) {
                let loaded = executor.load::<Subject>(tenant, subject).await?;
                let Some((Subject { status, .. }, _)) = loaded else { continue };
                rows.push(ErasureLine { tenant: name.clone(), subject, status: status_name(status) });
            }
            if streams.len() < PAGE_SIZE as usize {
                break;
            }
            after = streams.last().cloned();
        }
    }
    output.rows(&COLUMNS, &rows)?;
    Ok(Exit::Ok)
}

fn status_name(status: ErasureStatus) -> &'static str {
    match status {
        ErasureStatus::Requested => "requested",
        ErasureStatus::Erased => "erased",
    }
}

impl Repeat {
    async fn run(self, store: &Store, output: Output) -> Result<Exit, Failure> {
        let text = std::fs::read_to_string(&self.file)?;
        let listed = parse_list(&text, self.tenant.as_ref()).map_err(Failure::usage)?;
        let mut tenants: HashMap<&TenantSlug, Option<TenantId>> = HashMap::new();
        for (slug, _) in &listed {
            if !tenants.contains_key(slug) {
                tenants.insert(slug, store.tenant_by_slug(slug).await?.map(|record| record.id));
            }
        }
        operator_audit::record_access(store, tenants.values().copied().flatten()).await?;
        let executor = wiring::executor(store);
        let mut rows = Vec::with_capacity(listed.len());
        let mut unknown = false;
        for (slug, subject) in &listed {
            let status = if let Some(tenant) = tenants[slug] {
                let requested = privacy::request_as_system(&executor, tenant, *subject, "cli").await;
                status_name(requested.map_err(Failure::rejected_command)?.state.status)
            } else {
                unknown = true;
                "tenant_unknown"
            };
            rows.push(ErasureLine { tenant: slug.to_string(), subject: *subject, status });
        }
        output.rows(&COLUMNS, &rows)?;
        Ok(if unknown { Exit::CheckFailed } else { Exit::Ok })
    }
}

/// Parses the whole list before the first erasure is requested.
fn parse_list(text: &str, tenant: Option<&TenantSlug>) -> anyhow::Result<Vec<(TenantSlug, Uuid)>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let line_number = number + 1;
            let listed: ListEntry = serde_json::from_str(line)
                .map_err(|error| anyhow::anyhow!("line {line_number} names no erasure: {error}"))?;
            let tenant = listed.tenant.or_else(|| tenant.cloned());
            let tenant =
                tenant.ok_or_else(|| anyhow::anyhow!("line {line_number} names no tenant: give --tenant"))?;
            Ok((tenant, listed.subject))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_tenants_line_by_line_or_once() {
        let subject = Uuid::from_u128(7);
        let slug = TenantSlug::parse("acme").expect("a slug");
        let line =
            format!("{{\"tenant\": \"acme\", \"subject\": \"{subject}\", \"status\": \"erased\"}}\n\n");
        assert_eq!(parse_list(&line, None).expect("reads"), [(slug.clone(), subject)]);
        let line = format!("{{\"subject\": \"{subject}\"}}");
        assert_eq!(parse_list(&line, Some(&slug)).expect("reads"), [(slug, subject)]);
        assert!(parse_list(&line, None).expect_err("no tenant").to_string().contains("line 1"));
        assert!(parse_list("\n7", None).expect_err("no object").to_string().contains("line 2"));
    }
}
