//! Rows of aggregates right after a command, without waiting for the read model.
//!
//! A row is folded from the events of the command and the row before them, which is cached. Otherwise it is folded from
//! the newest snapshot and the events after it. So its cost does not depend on the age of the aggregate.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use fairness::FairCache;
use projections::{ReadModel, Record, RowFold};
use schemas::engine::{LogId, Moment, TenantId};
use serde_json::Value;
use store::{NewEvent, TenantStore};
use uuid::Uuid;

use super::as_of::AsOf;
use super::error::QueryError;
use super::folding::Folding;

/// The last rows of aggregates. Cheap to clone; the clones share one cache.
#[derive(Clone)]
pub struct RowCache(Arc<FairCache<TenantId, (&'static str, Uuid), Arc<CachedRow>>>);

/// The state of an aggregate after a command.
#[derive(Debug, Clone, Copy)]
pub struct Reached<'a> {
    /// The log.
    pub log_id: LogId,
    /// The version.
    pub version: u64,
    /// The events that the command recorded, and when. `None` if it recorded none, or earlier.
    pub recorded: Option<(DateTime<Utc>, &'a [NewEvent])>,
}

/// A row as JSON, at a version.
struct CachedRow {
    log_id: LogId,
    version: u64,
    row: Vec<u8>,
    subjects: Vec<Uuid>,
}

impl RowCache {
    /// A cache of at most `bytes_max` bytes, shared fairly between tenants.
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(FairCache::new(bytes_max)))
    }

    /// The row of an aggregate at the version that a command reached.
    ///
    /// # Errors
    /// [`QueryError`] if the store fails, or if the events cannot be applied.
    pub async fn row_at(
        &self,
        tenant: &TenantStore,
        read_model: &'static ReadModel,
        id: Uuid,
        reached: Reached<'_>,
    ) -> Result<Option<Record>, QueryError> {
        let cached = self.0.get(tenant.id(), &(read_model.model.name, id));
        let cached = cached.filter(|cached| cached.log_id == reached.log_id);
        let in_memory = folded(read_model, id, cached.as_deref(), reached).map_err(QueryError::Fold)?;
        let (row, fold) = if let Some(fold) = in_memory {
            (fold.record().map_err(QueryError::Fold)?, fold)
        } else {
            let end = Some(AsOf::Version(reached.version));
            let folding = Folding::begin(tenant, read_model, id, u64::MAX, end).await?;
            let (row, fold, _) = folding.finish().await?;
            (row, fold)
        };
        if cached.is_none_or(|cached| cached.version < reached.version) {
            let value = CachedRow {
                log_id: reached.log_id,
                version: reached.version,
                row: serde_json::to_vec(&row).expect("a row serialises"),
                subjects: fold.subjects().to_vec(),
            };
            let bytes = size_of::<CachedRow>() + value.row.len() + value.subjects.len() * size_of::<Uuid>();
            self.0.insert(tenant.id(), (read_model.model.name, id), Arc::new(value), bytes);
        }
        Ok(row)
    }
}

/// The fold of a row in memory and the command's events. `None` if they do not follow each other.
fn folded(
    read_model: &ReadModel,
    id: Uuid,
    cached: Option<&CachedRow>,
    reached: Reached<'_>,
) -> Result<Option<Box<dyn RowFold>>, projections::ProjectionError> {
    let (at, events) = reached.recorded.unwrap_or_default();
    let Some(before) = reached.version.checked_sub(events.len() as u64) else { return Ok(None) };
    let mut fold = match cached {
        _ if before == 0 => read_model.fold_from(Value::Null, Vec::new())?,
        Some(cached) if cached.version == before => {
            let row = serde_json::from_slice(&cached.row).map_err(projections::ProjectionError::Row)?;
            read_model.fold_from(row, cached.subjects.clone())?
        }
        _ => return Ok(None),
    };
    for (version, event) in (before + 1..).zip(events) {
        fold.apply(event.event_type.as_str(), &event.payload, &Moment { id, version, time: at })?;
    }
    Ok(Some(fold))
}
