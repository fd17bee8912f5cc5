//! `annals projection`: how far the read models are.

use std::collections::HashMap;

use clap::Subcommand;
use schemas::engine::{TenantId, TenantSlug};
use serde::Serialize;
use store::Store;

use super::{Exit, Failure, Output};
use crate::config::Settings;
use crate::wiring;

/// `annals projection ...`
#[derive(Debug, Subcommand)]
pub enum Projection {
    /// List the read models of every tenant with their lag
    Ls,
}

#[derive(Serialize)]
struct Row {
    projection: String,
    tenant: String,
    position: u64,
    head: u64,
    lag: u64,
}

impl Projection {
    /// Runs it.
    pub async fn run(self, settings: &Settings, output: Output) -> Result<Exit, Failure> {
        let Self::Ls = self;
        let store = wiring::connect(settings).await?;
        let lags = projections::lag(&store).await?;
        let slugs = slugs(&store, lags.iter().map(|lag| lag.tenant)).await?;
        let rows: Vec<Row> = lags
            .into_iter()
            .map(|lag| Row {
                tenant: slugs.get(&lag.tenant).map_or_else(|| lag.tenant.to_string(), ToString::to_string),
                projection: lag.projection,
                position: lag.position,
                head: lag.head,
                lag: lag.head.saturating_sub(lag.position),
            })
            .collect();
        store.shutdown().await;
        output.rows(&["projection", "tenant", "position", "head", "lag"], &rows)?;
        Ok(Exit::Ok)
    }
}

/// The public names of tenants.
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
