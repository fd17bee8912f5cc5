//! The lag of each read model for each tenant, and the reason if it does not advance.

use std::collections::HashMap;

use schemas::engine::TenantId;
use serde::Serialize;
use store::{LogFilter, ReadModelState, Store, StoreError};
use uuid::Uuid;

use crate::{READ_MODELS, ReadModel};

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    /// This version of the program does not know the next event. A process of a newer version applies it.
    Waiting {
        /// The type of the event.
        event_type: String,
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
    for read_model in READ_MODELS.iter() {
        let projection = read_model.model.name;
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
            let position = of_this_log.map_or(0, |checkpoint| checkpoint.position);
            let unknown = match state {
                ProjectionState::Live if position < head.position => {
                    unknown_type(store, read_model, head.tenant, position).await?
                }
                _ => None,
            };
            lags.push(ProjectionLag {
                projection: projection.to_owned(),
                tenant: head.tenant,
                state: unknown.map_or(state, |event_type| ProjectionState::Waiting { event_type }),
                position,
                head: head.position,
            });
        }
    }
    Ok(lags)
}

/// The type of the event after a position, if the read model needs a newer version of the program for it.
async fn unknown_type(
    store: &Store,
    read_model: &ReadModel,
    tenant: TenantId,
    position: u64,
) -> Result<Option<String>, StoreError> {
    let (tenant, all) = (store.tenant(tenant), LogFilter::default());
    let page = tenant.read_log_page(position, Some(position + 1), 1, &all).await?;
    let next = page.events.into_iter().next();
    let unknown = next.filter(|event| {
        event.stream.category() == read_model.category && !read_model.knows(event.event_type.as_str())
    });
    Ok(unknown.map(|event| event.event_type.to_string()))
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
