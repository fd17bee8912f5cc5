//! How far each read model is behind each tenant's log.

use std::collections::HashMap;

use schemas::engine::TenantId;
use serde::Serialize;
use store::{Store, StoreError};

use crate::CHECKPOINTS;

/// How far a read model is with a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProjectionLag {
    /// The read model, by the name of its checkpoint.
    pub projection: String,
    /// Whose log.
    pub tenant: TenantId,
    /// The last position applied.
    pub position: u64,
    /// The log's last position.
    pub head: u64,
}

/// Every read model with every tenant.
pub async fn lag(store: &Store) -> Result<Vec<ProjectionLag>, StoreError> {
    // Checkpoints first: read the other way round, one could stand beyond its head.
    let checkpoints: HashMap<_, _> = store
        .checkpoints(None)
        .await?
        .into_iter()
        .map(|(tenant, consumer, checkpoint)| ((tenant, consumer), checkpoint))
        .collect();
    let heads = store.heads().await?;
    let mut lags = Vec::with_capacity(heads.len() * CHECKPOINTS.len());
    for projection in CHECKPOINTS {
        for head in &heads {
            let position = checkpoints
                .get(&(head.tenant, (*projection).to_owned()))
                .filter(|checkpoint| checkpoint.log_id == head.log_id)
                .map_or(0, |checkpoint| checkpoint.position);
            lags.push(ProjectionLag {
                projection: (*projection).to_owned(),
                tenant: head.tenant,
                position,
                head: head.position,
            });
        }
    }
    Ok(lags)
}
