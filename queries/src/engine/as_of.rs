//! One aggregate as its own events make it, now or at a moment of its past: right at once, without any read model.

use chrono::{DateTime, Utc};
use futures::{TryStreamExt, pin_mut};
use projections::{ReadModel, Record};
use schemas::engine::{LogId, RecordedEvent, StreamName};
use store::TenantStore;
use uuid::Uuid;

use super::error::QueryError;

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
    fn log(self) -> Option<LogId> {
        match self {
            Self::Position(log, _) => Some(log),
            Self::Time(_) | Self::Version(_) => None,
        }
    }

    fn is_beyond(self, reached: u64) -> bool {
        matches!(self, Self::Version(version) if version > reached)
    }

    fn includes(self, event: &RecordedEvent) -> bool {
        match self {
            Self::Position(_, position) => event.position <= position,
            Self::Time(time) => event.recorded_at <= time,
            Self::Version(version) => event.version <= version,
        }
    }
}

/// One fact of an aggregate's history, with what it made of the aggregate.
#[derive(Debug, Clone)]
pub struct Past {
    /// The event.
    pub event: RecordedEvent,
    /// The aggregate behind it; `None` where the event ended it.
    pub row: Option<Record>,
}

/// A page of an aggregate's history.
#[derive(Debug, Clone)]
pub struct History {
    /// The facts, oldest first.
    pub facts: Vec<Past>,
    /// How many facts there are in all.
    pub total: u64,
    /// The aggregate at the end of the page.
    pub row: Option<Record>,
}

/// The row that the stream's events make, up to `as_of` where given. `None` where there was none. An earlier row where a
/// version is not reached.
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

/// The row as it was at a moment of its past. `None` where there was none.
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
    let log = as_of.and_then(AsOf::log);
    let stream = StreamName::new(read_model.category, id);
    let events = tenant.read_stream_of(log, &stream, 1);
    pin_mut!(events);
    let (mut fold, mut version) = (read_model.new_fold(), 0);
    while let Some(event) = events.try_next().await? {
        if as_of.is_some_and(|as_of| !as_of.includes(&event)) {
            break;
        }
        version = event.version;
        fold.apply(&event).map_err(QueryError::Fold)?;
    }
    Ok((fold.record().map_err(QueryError::Fold)?, version))
}

/// At most `limit` facts behind version `after`.
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
    let mut fold = read_model.new_fold();
    let events = tenant.read_stream(&stream, 1);
    pin_mut!(events);
    while let Some(event) = events.try_next().await? {
        // What was recorded after the count is left to the next request.
        if page.facts.len() == limit || event.version > total {
            break;
        }
        fold.apply(&event).map_err(QueryError::Fold)?;
        if event.version > after {
            page.facts.push(Past { event, row: fold.record().map_err(QueryError::Fold)? });
        }
    }
    page.row = fold.record().map_err(QueryError::Fold)?;
    Ok(page)
}
