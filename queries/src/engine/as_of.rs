//! One aggregate as its own events make it, now or at a moment of its past. It does not wait for a read model.

use chrono::{DateTime, Utc};
use projections::{ReadModel, Record};
use schemas::engine::{LogId, RecordedEvent, StreamName};
use store::{StreamEnd, TenantStore};
use uuid::Uuid;

use super::error::QueryError;
use super::folding::Folding;

/// A moment in an aggregate's past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsOf {
    /// When this log of the tenant ended at this position. A log that was replaced meanwhile is refused: the position
    /// may name another fact by then.
    Position(LogId, u64),
    /// When all was recorded that was recorded by then.
    Time(DateTime<Utc>),
    /// When the aggregate was at this version.
    Version(u64),
}

impl AsOf {
    pub(super) fn log(self) -> Option<LogId> {
        match self {
            Self::Position(log, _) => Some(log),
            Self::Time(_) | Self::Version(_) => None,
        }
    }

    fn is_beyond(self, reached: u64) -> bool {
        matches!(self, Self::Version(version) if version > reached)
    }

    pub(super) fn includes(self, event: &RecordedEvent) -> bool {
        match self {
            Self::Position(_, position) => event.position <= position,
            Self::Time(time) => event.recorded_at <= time,
            Self::Version(version) => event.version <= version,
        }
    }

    pub(super) fn end(self) -> StreamEnd {
        match self {
            Self::Position(_, position) => StreamEnd::Position(position),
            Self::Time(time) => StreamEnd::Time(time),
            Self::Version(version) => StreamEnd::Version(version),
        }
    }
}

/// One event of an aggregate's history, with the row after it.
#[derive(Debug, Clone)]
pub struct Past {
    /// The event.
    pub event: RecordedEvent,
    /// The row after the event; `None` if the event deleted it.
    pub row: Option<Record>,
}

/// A page of an aggregate's history.
#[derive(Debug, Clone)]
pub struct History {
    /// The events, oldest first.
    pub facts: Vec<Past>,
    /// The number of events of the aggregate.
    pub total: u64,
    /// The row at the end of the page.
    pub row: Option<Record>,
}

/// The row that the stream's events make, up to `as_of` if given. `None` if there was none. If a version is not reached, it
/// is the last row.
///
/// # Errors
/// [`QueryError`] when the store failed, or when the events do not fold.
pub async fn at(
    tenant: &TenantStore,
    read_model: &ReadModel,
    id: Uuid,
    as_of: Option<AsOf>,
) -> Result<Option<Record>, QueryError> {
    Ok(fold(tenant, read_model, id, as_of).await?.0)
}

/// The row as it was at a moment of its past. `None` if there was none.
///
/// # Errors
/// [`QueryError::VersionBeyond`] when the stream exists and has not reached the version.
pub async fn at_moment(
    tenant: &TenantStore,
    read_model: &ReadModel,
    id: Uuid,
    as_of: AsOf,
) -> Result<Option<Record>, QueryError> {
    match fold(tenant, read_model, id, Some(as_of)).await? {
        (_, version @ 1..) if as_of.is_beyond(version) => Err(QueryError::VersionBeyond { version }),
        (row, _) => Ok(row),
    }
}

/// The row, and the version of the last event that it was folded from.
async fn fold(
    tenant: &TenantStore,
    read_model: &ReadModel,
    id: Uuid,
    as_of: Option<AsOf>,
) -> Result<(Option<Record>, u64), QueryError> {
    let folding = Folding::begin(tenant, read_model, id, u64::MAX, as_of).await?;
    let (row, _, version) = folding.finish().await?;
    Ok((row, version))
}

/// At most `limit` events after version `after`.
///
/// # Errors
/// [`QueryError::VersionBeyond`] when the stream exists and has not reached the version `after`.
pub async fn history(
    tenant: &TenantStore,
    read_model: &ReadModel,
    id: Uuid,
    after: u64,
    limit: usize,
) -> Result<History, QueryError> {
    let stream = StreamName::new(read_model.category, id);
    let total = tenant.stream_version(&stream).await?;
    if total > 0 && after > total {
        return Err(QueryError::VersionBeyond { version: total });
    }
    let mut page = History { facts: Vec::new(), total, row: None };
    // What was recorded after the count is left to the next request.
    let end = AsOf::Version(total.min(after.saturating_add(limit as u64)));
    let mut folding = Folding::begin(tenant, read_model, id, after, Some(end)).await?;
    while let Some(event) = folding.next().await? {
        if event.version > after {
            let row = folding.fold.record().map_err(QueryError::Fold)?;
            page.facts.push(Past { event, row });
        }
    }
    folding.keep_snapshots();
    page.row = folding.fold.record().map_err(QueryError::Fold)?;
    Ok(page)
}
