//! One aggregate as its own events make it, now or at a moment of its past: right at once, without any read model.

use chrono::{DateTime, Utc};
use futures::{TryStreamExt, pin_mut};
use projections::Projection;
use schemas::engine::{LogId, RecordedEvent, StreamName};
use store::TenantStore;

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
pub struct Past<R> {
    /// The event.
    pub event: RecordedEvent,
    /// The aggregate behind it; `None` where the event ended it.
    pub row: Option<R>,
}

/// The row that the stream's events make, up to `as_of` where given. `None` where there was none.
pub async fn at<P: Projection>(
    tenant: &TenantStore,
    stream: &StreamName,
    as_of: Option<AsOf>,
) -> Result<Option<P::Row>, QueryError> {
    let log = as_of.and_then(AsOf::log);
    let events = tenant.read_stream_of(log, stream, 1);
    pin_mut!(events);
    let mut row = None;
    while let Some(event) = events.try_next().await? {
        if as_of.is_some_and(|as_of| !as_of.includes(&event)) {
            break;
        }
        row = P::apply(row, &event).map_err(QueryError::Fold)?;
    }
    Ok(row)
}

/// At most `limit` facts behind version `after`, oldest first, and whether there are more.
pub async fn history<P: Projection>(
    tenant: &TenantStore,
    stream: &StreamName,
    after: u64,
    limit: usize,
) -> Result<(Vec<Past<P::Row>>, bool), QueryError>
where
    P::Row: Clone,
{
    let events = tenant.read_stream(stream, 1);
    pin_mut!(events);
    let (mut row, mut past) = (None, Vec::new());
    while let Some(event) = events.try_next().await? {
        if past.len() == limit {
            return Ok((past, true));
        }
        row = P::apply(row, &event).map_err(QueryError::Fold)?;
        if event.version > after {
            past.push(Past { event, row: row.clone() });
        }
    }
    Ok((past, false))
}
