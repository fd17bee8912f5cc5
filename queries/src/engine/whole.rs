//! A whole read model as it was, page by page, from the aggregates' own streams. Each page is the same whenever it is read,
//! so nothing is kept between two pages.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use projections::{HistoricRows, HistoricStateError, ReadModel, RowChange};
use schemas::engine::{LogId, StreamName};
use serde::Serialize;
use serde_json::Value;
use store::{StoreError, TenantStore};
use uuid::Uuid;

/// Maximum events that one page folds. The last aggregate may exceed it.
const PAGE_EVENTS_MAX: usize = 10_000;
/// Maximum time of one page. The last aggregate may exceed it. A slow database makes pages shorter.
const PAGE_DURATION_MAX: Duration = Duration::from_secs(2);
/// Aggregates that are folded at the same time.
const CONCURRENT_FOLDS_MAX: usize = 4;

/// Some rows of a read model as it was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PastRows {
    /// The log.
    pub log_id: LogId,
    /// The position.
    pub at: u64,
    /// The rows, in the order of their keys.
    pub rows: Vec<Value>,
    /// The key behind which the next page starts; none at the end.
    pub next_after: Option<Uuid>,
    /// The end of the log.
    pub head: u64,
}

/// What became of some rows between two positions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PastChanges {
    /// The log.
    pub log_id: LogId,
    /// The earlier position.
    pub from: u64,
    /// The later one.
    pub to: u64,
    /// The rows that differ, each once, in the order in which they were first touched.
    pub changes: Vec<RowChange>,
    /// The position up to which it was looked; the end is at `to`.
    pub next_after: u64,
    /// The end of the log.
    pub head: u64,
}

/// At most `limit` rows of a read model when the log ended at `at` (or as it ends), behind a key. `log`: which log the
/// position is of.
///
/// # Errors
/// [`HistoricStateError`], also for an unknown read model and for a position after the head.
pub async fn rows(
    tenant: &TenantStore,
    checkpoint: &str,
    log: LogId,
    at: Option<u64>,
    after: Option<Uuid>,
    limit: usize,
) -> Result<PastRows, HistoricStateError> {
    rows_of(known(checkpoint)?, tenant, log, at, after, limit).await
}

/// What became of rows between the positions `from` and `to` (or the end), as events behind `after` have touched them; at
/// most `limit` events are looked at.
///
/// # Errors
/// As [`rows`].
pub async fn changes(
    tenant: &TenantStore,
    checkpoint: &str,
    log: LogId,
    between: (u64, Option<u64>),
    after: Option<u64>,
    limit: usize,
) -> Result<PastChanges, HistoricStateError> {
    changes_of(known(checkpoint)?, tenant, log, between, after, limit).await
}

fn known(checkpoint: &str) -> Result<&'static ReadModel, HistoricStateError> {
    ReadModel::find(checkpoint).ok_or_else(|| HistoricStateError::Unknown(checkpoint.to_owned()))
}

/// The end of the log, which must be the one that is meant, and a position in it.
async fn reached(
    tenant: &TenantStore,
    log: LogId,
    position: Option<u64>,
) -> Result<(u64, u64), HistoricStateError> {
    let head = tenant.head().await?;
    if head.log_id != log {
        return Err(StoreError::LogReplaced { current: head.log_id }.into());
    }
    match position.unwrap_or(head.position) {
        position if position > head.position => Err(HistoricStateError::Beyond { head: head.position }),
        position => Ok((head.position, position)),
    }
}

async fn rows_of(
    read_model: &'static ReadModel,
    tenant: &TenantStore,
    log: LogId,
    at: Option<u64>,
    after: Option<Uuid>,
    limit: usize,
) -> Result<PastRows, HistoricStateError> {
    let (head, at) = reached(tenant, log, at).await?;
    let beginning = format!("{}/", read_model.category);
    let behind = after.map(|id| StreamName::new(read_model.category, id));
    let streams = tenant.streams(&beginning, behind.as_ref(), limit as u32).await?;
    let full = streams.len() == limit;
    let mut page = PastRows { log_id: log, at, rows: Vec::new(), next_after: None, head };
    let (begun, mut looked_at, mut read, mut early) = (Instant::now(), None, 0, false);
    {
        let fold = async |stream: StreamName| {
            Ok::<_, HistoricStateError>((
                stream.uuid(),
                read_model.rows_at(tenant, log, &stream, [at, at]).await?,
            ))
        };
        let folded = futures::stream::iter(streams).map(fold);
        let mut folded = std::pin::pin!(folded.buffered(CONCURRENT_FOLDS_MAX));
        while let Some((id, HistoricRows { rows: [row, _], events })) = folded.try_next().await? {
            page.rows.extend(row);
            looked_at = id.or(looked_at);
            read += events;
            if read > PAGE_EVENTS_MAX || begun.elapsed() > PAGE_DURATION_MAX {
                early = true;
                break;
            }
        }
    }
    page.next_after = looked_at.filter(|_| full || early);
    // The list of streams is of whatever log there was: what it left out must not have been of this one.
    reached(tenant, log, Some(at)).await?;
    Ok(page)
}

async fn changes_of(
    read_model: &'static ReadModel,
    tenant: &TenantStore,
    log: LogId,
    (from, to): (u64, Option<u64>),
    after: Option<u64>,
    limit: usize,
) -> Result<PastChanges, HistoricStateError> {
    let (head, to) = reached(tenant, log, to).await?;
    if from > to {
        return Err(HistoricStateError::Beyond { head });
    }
    let after = after.unwrap_or(from).max(from);
    let events = read_model.page(tenant, log, (after, to), limit).await?;
    let mut page =
        PastChanges { log_id: log, from, to, changes: Vec::new(), next_after: events.scanned_to, head };
    let (begun, mut read, mut seen) = (Instant::now(), 0, HashSet::new());
    for (index, event) in events.events.iter().enumerate() {
        // Behind the first one, so that every page comes farther.
        if index > 0 && (read > PAGE_EVENTS_MAX || begun.elapsed() > PAGE_DURATION_MAX) {
            page.next_after = event.position - 1;
            break;
        }
        let Some(id) = event.stream.uuid().filter(|id| seen.insert(*id)) else { continue };
        // A row is told where it is first touched, and nowhere else.
        let before = tenant.position_of(&event.stream, event.version - 1).await?;
        if before.is_some_and(|before| before > from) {
            continue;
        }
        let HistoricRows { rows: [before, later], events } =
            read_model.rows_at(tenant, log, &event.stream, [from, to]).await?;
        read += events;
        page.changes.extend(RowChange::between(id, before.as_ref(), later.as_ref()));
    }
    Ok(page)
}
