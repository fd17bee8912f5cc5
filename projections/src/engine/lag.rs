//! The lag of each read model for each tenant, and the reason if it does not advance.

use std::collections::HashMap;

use schemas::engine::TenantId;
use serde::Serialize;
use store::{ReadModelState, Store, StoreError};
use uuid::Uuid;

use crate::READ_MODELS;

/// The state of a read model for one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProjectionLag {
    /// The name of its checkpoint.
    pub projection: String,
    /// The tenant.
    pub tenant: TenantId,
    /// What it does now.
    pub state: ProjectionState,
    /// The last position applied.
    pub position: u64,
    /// The log's last position.
    pub head: u64,
}

/// What a read model does for a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ProjectionState {
    /// It applies new events.
    Live,
    /// It applies new events, and is being rebuilt.
    Rebuilding {
        /// The position that the new version has reached.
        position: u64,
        /// The position that it must reach.
        target: u64,
    },
    /// An operator has paused it.
    Paused,
    /// An event that cannot be applied stops it.
    Stopped {
        /// The dead letter of the event.
        dead_letter: Uuid,
    },
    /// It belongs to a replaced log and must be rebuilt.
    OtherLog,
}

/// The state of every read model for every tenant.
///
/// # Errors
/// [`StoreError`] if the database fails.
pub async fn lag(store: &Store) -> Result<Vec<ProjectionLag>, StoreError> {
    // Checkpoints are read before heads; otherwise a checkpoint could exceed its head.
    let checkpoints: HashMap<_, _> = store
        .checkpoints(None)
        .await?
        .into_iter()
        .map(|(tenant, consumer, checkpoint)| ((tenant, consumer), checkpoint))
        .collect();
    let heads = store.heads().await?;
    let states = store.read_models().await?;
    let states: HashMap<_, _> =
        states.iter().map(|state| ((state.tenant, state.projection.as_str()), state)).collect();
    let mut lags = Vec::with_capacity(heads.len() * READ_MODELS.len());
    for projection in READ_MODELS.iter().map(|model| model.model.name) {
        let paused_for_all = store.paused_tenants(projection).await?.contains(&None);
        let letters: HashMap<TenantId, Uuid> =
            store.unsettled_dead_letters(projection).await?.into_iter().collect();
        for head in &heads {
            let checkpoint = checkpoints.get(&(head.tenant, projection.to_owned()));
            let of_this_log = checkpoint.filter(|checkpoint| checkpoint.log_id == head.log_id);
            let state = if checkpoint.is_some() && of_this_log.is_none() {
                ProjectionState::OtherLog
            } else if let Some(dead_letter) = letters.get(&head.tenant) {
                ProjectionState::Stopped { dead_letter: *dead_letter }
            } else {
                state_of(states.get(&(head.tenant, projection)).copied(), paused_for_all)
            };
            lags.push(ProjectionLag {
                projection: projection.to_owned(),
                tenant: head.tenant,
                state,
                position: of_this_log.map_or(0, |checkpoint| checkpoint.position),
                head: head.position,
            });
        }
    }
    Ok(lags)
}

fn state_of(state: Option<&ReadModelState>, paused_for_all: bool) -> ProjectionState {
    match state {
        _ if paused_for_all => ProjectionState::Paused,
        Some(ReadModelState { paused: true, .. }) => ProjectionState::Paused,
        Some(ReadModelState { rebuild: Some((position, target)), .. }) => {
            ProjectionState::Rebuilding { position: *position, target: *target }
        }
        _ => ProjectionState::Live,
    }
}
