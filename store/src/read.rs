//! Reads a tenant's log: a stream, a page, up to the head, or as a tail without end.
//!
//! Each page is a short transaction. Positions have no gaps, so no event is missed between two pages.

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use database::Value;
use futures::Stream;
use schemas::engine::{EventType, InvalidValue, LogId, RecordedEvent, StreamName, TypePattern};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::heads::field;
use crate::invariants::first_gap;
use crate::{Head, Invariant, StoreError, TenantStore};

/// Maximum events per page of a streaming read.
const PAGE_EVENTS_MAX: usize = 500;
/// Maximum bytes of events per page, so that the memory of a reader does not depend on the size of events.
const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The limit of a page of a streaming read.
pub(crate) const PAGE_LIMIT: PageLimit = PageLimit { events: PAGE_EVENTS_MAX, bytes: PAGE_BYTES_MAX };
/// Maximum positions that one page scans for events that match a filter.
const PAGE_SCAN_POSITIONS_MAX: u64 = 20_000;
/// Poll interval of a tail without a notification.
const TAIL_POLL_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) const COLUMNS: &str = "position, version, recorded_at, event_id, stream, type, payload, metadata";

/// Selects events of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// The event types; empty selects all.
    pub types: Vec<TypePattern>,
    /// The streams; `None` selects all.
    pub stream: Option<StreamFilter>,
}

/// Selects streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamFilter {
    /// One stream.
    Exact(StreamName),
    /// All streams of a category (`<context>.<aggregate>`).
    Category(String),
}

impl FromStr for StreamFilter {
    type Err = InvalidValue;

    /// Parses `<category>/<id>` or `<category>/*`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(category) = text.strip_suffix("/*") {
            // Checks the category as part of a stream name.
            StreamName::parse(&format!("{category}/x"))?;
            return Ok(Self::Category(category.to_owned()));
        }
        StreamName::parse(text).map(Self::Exact)
    }
}

/// The limit of a page: it ends with the event that reaches one of the two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    /// Maximum events.
    pub events: usize,
    /// Bytes of payloads and metadata; the last event may exceed it.
    pub bytes: usize,
}

impl PageLimit {
    pub(crate) fn parameters(self) -> (i64, i64) {
        (self.events as i64, self.bytes as i64)
    }

    /// Whether a page with these numbers was ended by the limit, so that there may be more events.
    pub(crate) fn is_reached(self, events: usize, bytes: usize) -> bool {
        events >= self.events || bytes >= self.bytes
    }
}

/// The statement that reads a page: at most $2 rows, up to the row that reaches $3 bytes of payload and metadata.
/// `octet_length` does not decompress values that are stored out of line.
pub(crate) fn page_sql(columns: &str, matching: &str, order: &str) -> String {
    let bytes = "octet_length(payload) + octet_length(metadata)";
    format!(
        "select {columns} from (
             select *, sum({bytes}) over (order by {order} rows unbounded preceding) - ({bytes}) as bytes_before
             from events where {matching} order by {order} limit $2
         ) piece where bytes_before < $3 order by {order}"
    )
}

/// The bytes of a row's payload, at this column, and of its metadata in the next column.
pub(crate) fn stored_bytes(row: &Row, payload: usize) -> usize {
    row.get::<_, &[u8]>(payload).len() + row.get::<_, &[u8]>(payload + 1).len()
}

/// A page of a log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogPage {
    /// The log that was read.
    pub log_id: LogId,
    /// The matching events, in position order.
    pub events: Vec<RecordedEvent>,
    /// The last scanned position; the next page starts after it.
    pub scanned_to: u64,
    /// The head at the time of reading.
    pub head: u64,
}

impl TenantStore {
    /// The last position that was recorded before a time; 0 without one.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    /// [`StoreError::TenantUnknown`] when the tenant does not exist.
    pub async fn position_before(&self, time: DateTime<Utc>) -> Result<(LogId, u64), StoreError> {
        let transaction = self.begin_snapshot().await?;
        let head = transaction.head().await?;
        // Times never decrease along the log.
        let (mut below, mut above) = (0, head.position + 1);
        while above - below > 1 {
            let middle = below + (above - below) / 2;
            let row = transaction
                .query_opt(
                    "select recorded_at < $3 from events where tenant_id = $1 and position = $2",
                    &[&self.id().0, &(middle as i64), &time],
                )
                .await?;
            if row.is_some_and(|row| row.get(0)) {
                below = middle;
            } else {
                above = middle;
            }
        }
        transaction.commit().await?;
        Ok((head.log_id, below))
    }

    /// A page of at most `limit` events, as stored, after position `after`, up to `up_to` or the head.
    ///
    /// A page may end early, because of few matches or large events: `scanned_to` is the last scanned position.
    ///
    /// # Errors
    /// [`StoreError::TenantUnknown`] when the tenant does not exist.
    pub async fn read_log_page(
        &self,
        after: u64,
        up_to: Option<u64>,
        limit: usize,
        filter: &LogFilter,
    ) -> Result<LogPage, StoreError> {
        self.read_log_page_within(after, up_to, PageLimit { events: limit, bytes: PAGE_BYTES_MAX }, filter)
            .await
    }

    /// The same with a limit of bytes too.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    /// [`StoreError::TenantUnknown`] when the tenant does not exist.
    /// [`StoreError::InvariantViolated`] when a page without a filter has a gap.
    /// [`StoreError::Corrupt`] when a stored event is invalid.
    pub async fn read_log_page_within(
        &self,
        after: u64,
        up_to: Option<u64>,
        limit: PageLimit,
        filter: &LogFilter,
    ) -> Result<LogPage, StoreError> {
        let transaction = self.begin().await?;
        let head = transaction.head().await?;
        let end = up_to.map_or(head.position, |up_to| up_to.min(head.position));
        // One stream is read by its own index, so the range may cover the whole log.
        let exact = matches!(filter.stream, Some(StreamFilter::Exact(_)));
        let end = if exact { end } else { end.min(after.saturating_add(PAGE_SCAN_POSITIONS_MAX)) };
        let mut page =
            LogPage { log_id: head.log_id, events: Vec::new(), scanned_to: after, head: head.position };
        if after >= end {
            transaction.commit().await?;
            return Ok(page);
        }
        let tenant = self.id().0;
        let (from, to) = (after as i64, end as i64);
        let (events_max, bytes_max) = limit.parameters();
        let mut matching = String::from("tenant_id = $1 and position > $4 and position <= $5");
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&tenant, &events_max, &bytes_max, &from, &to];
        let (stream, types);
        match &filter.stream {
            Some(StreamFilter::Exact(name)) => {
                stream = name.as_str().to_owned();
                parameters.push(&stream);
                write!(matching, " and stream = ${}", parameters.len()).expect("writing to a string");
            }
            Some(StreamFilter::Category(category)) => {
                stream = format!("{category}/");
                parameters.push(&stream);
                write!(matching, " and starts_with(stream, ${})", parameters.len())
                    .expect("writing to a string");
            }
            None => {}
        }
        if !filter.types.is_empty() {
            types = TypePattern::regex(&filter.types);
            parameters.push(&types);
            write!(matching, " and type ~ ${}", parameters.len()).expect("writing to a string");
        }
        let rows = transaction.query(&page_sql(COLUMNS, &matching, "position"), &parameters).await?;
        transaction.commit().await?;
        page.events = rows.iter().map(|row| event_from(row, 0, head.log_id)).collect::<Result<_, _>>()?;
        let full = limit.is_reached(rows.len(), rows.iter().map(|row| stored_bytes(row, 6)).sum());
        page.scanned_to = page.events.last().filter(|_| full).map_or(end, |event| event.position);
        if filter.stream.is_none() && filter.types.is_empty() {
            self.ensure_no_gap(after, &page, full)?;
        }
        Ok(page)
    }

    /// Checks that a page without a filter has every position after `after`, up to the last scanned one unless it is
    /// full.
    fn ensure_no_gap(&self, after: u64, page: &LogPage, full: bool) -> Result<(), StoreError> {
        let end = after + page.events.len() as u64;
        let gap = first_gap(after, page.events.iter().map(|event| event.position))
            .or_else(|| (!full && end < page.scanned_to).then_some(end + 1));
        gap.map_or(Ok(()), |gap| Err(self.violation(Invariant::LogPositions, gap)))
    }

    /// The head, and the last position that was recorded at or before a time; 0 without one.
    /// Times never decrease along positions, so it is a binary search.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    /// [`StoreError::TenantUnknown`] when the tenant does not exist.
    /// [`StoreError::InvariantViolated`] when a position of the log has no event.
    pub async fn position_at(&self, time: DateTime<Utc>) -> Result<(Head, u64), StoreError> {
        let transaction = self.begin_snapshot().await?;
        let head = transaction.head().await?;
        // Events up to `by` were recorded by then; events from `later` on were not.
        let (mut by, mut later) = (0, head.position + 1);
        if head.recorded_at <= time {
            by = head.position;
        }
        while by + 1 < later {
            let middle = by + (later - by) / 2;
            let sql = "select recorded_at <= $3 from events where tenant_id = $1 and position = $2";
            let row = transaction.query_opt(sql, &[&self.id().0, &(middle as i64), &time]).await?;
            let row = row.ok_or_else(|| self.violation(Invariant::LogPositions, middle))?;
            if row.get(0) {
                by = middle;
            } else {
                later = middle;
            }
        }
        transaction.commit().await?;
        Ok((head, by))
    }

    /// The position of an event, by stream and version.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn position_of(&self, stream: &StreamName, version: u64) -> Result<Option<u64>, StoreError> {
        let sql = "select position from events where tenant_id = $1 and stream = $2 and version = $3";
        let values = [Value::Uuid(self.id().0), Value::Text(stream.as_str()), Value::Int8(version as i64)];
        let rows = self.read_one(sql, &values).await?;
        rows.iter().next().map(|row| Ok(field::<i64>(row, 0)? as u64)).transpose()
    }

    /// A page of stream names whose category starts with `beginning`, in order, after `after`.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    /// [`StoreError::Corrupt`] when a stored stream name is invalid.
    pub async fn streams(
        &self,
        beginning: &str,
        after: Option<&StreamName>,
        limit: u32,
    ) -> Result<Vec<StreamName>, StoreError> {
        // In byte order, like the index: every name with this prefix sorts before the prefix with the last code point.
        let end = format!("{beginning}\u{10FFFF}");
        let after = after.map_or(beginning, StreamName::as_str);
        let sql = "select stream from events
                   where tenant_id = $1 and version = 1 and stream > $2 and stream < $3 order by stream limit $4";
        let limit = Value::Int8(i64::from(limit));
        let values = [Value::Uuid(self.id().0), Value::Text(after), Value::Text(&end), limit];
        let rows = self.read_one(sql, &values).await?;
        rows.iter().map(|row| Ok(StreamName::parse(field(row, 0)?)?)).collect()
    }

    /// The events of one stream from a version on, with personal data decrypted.
    pub fn read_stream(
        &self,
        stream: &StreamName,
        from_version: u64,
    ) -> impl Stream<Item = Result<RecordedEvent, StoreError>> + Send + 'static {
        self.read_stream_of(None, stream, from_version)
    }

    /// The same for a reader with a known log.
    ///
    /// # Errors
    /// [`StoreError::LogReplaced`] when the tenant has another log than `log`.
    pub fn read_stream_of(
        &self,
        log: Option<LogId>,
        stream: &StreamName,
        from_version: u64,
    ) -> impl Stream<Item = Result<RecordedEvent, StoreError>> + Send + 'static {
        let (handle, stream) = (self.clone(), stream.clone());
        async_stream::try_stream! {
            let mut next = from_version.max(1);
            loop {
                let page = handle.stream_rows(&stream, next, PAGE_LIMIT, false).await?;
                ensure_same_log(log, page.head.log_id)?;
                let (full, count) = (page.is_full(PAGE_LIMIT), page.len() as u64);
                let events = handle.stream_events(&page, next)?;
                drop(page);
                for event in handle.open(events).await? {
                    yield event;
                }
                if !full {
                    return;
                }
                next += count;
            }
        }
    }

    /// The events after `after`, up to the current head.
    pub fn read_log(
        &self,
        after: u64,
        filter: LogFilter,
    ) -> impl Stream<Item = Result<RecordedEvent, StoreError>> + Send + 'static {
        let handle = self.clone();
        async_stream::try_stream! {
            let mut at = after;
            let head = handle.head().await?;
            while at < head.position {
                let page = handle.read_log_page(at, Some(head.position), PAGE_EVENTS_MAX, &filter).await?;
                ensure_continuous(Some(head.log_id), head.position, &page)?;
                at = page.scanned_to;
                for event in page.events {
                    yield event;
                }
            }
        }
    }

    /// The events after `after`, and then new events without end.
    ///
    /// # Errors
    /// [`StoreError::LogReplaced`] when the log is not `log`, or is replaced meanwhile.
    /// The stream ends only with an error.
    pub fn tail(
        &self,
        log: Option<LogId>,
        after: u64,
        filter: LogFilter,
    ) -> impl Stream<Item = Result<RecordedEvent, StoreError>> + Send + 'static {
        let handle = self.clone();
        async_stream::try_stream! {
            let mut moved = handle.store().0.signals.watch_head(handle.id());
            let (mut at, mut log, mut end) = (after, log, 0);
            loop {
                // Mark as seen before reading, so that a move during the read is not missed.
                moved.mark_unchanged();
                let page = handle.read_log_page(at, None, PAGE_EVENTS_MAX, &filter).await?;
                ensure_continuous(log, end, &page)?;
                (log, end) = (Some(page.log_id), page.head);
                at = page.scanned_to;
                for event in page.events {
                    yield event;
                }
                if at >= page.head {
                    // After a timeout or a notification, read the log again.
                    drop(tokio::time::timeout(TAIL_POLL_INTERVAL, moved.changed()).await);
                }
            }
        }
    }
}

pub(crate) fn ensure_same_log(named: Option<LogId>, current: LogId) -> Result<(), StoreError> {
    match named {
        Some(named) if named != current => Err(StoreError::LogReplaced { current }),
        _ => Ok(()),
    }
}

/// Checks that a page is of the same log, and that the log has not become shorter.
fn ensure_continuous(log: Option<LogId>, end: u64, page: &LogPage) -> Result<(), StoreError> {
    ensure_same_log(log, page.log_id)?;
    if page.head < end { Err(StoreError::LogReplaced { current: page.log_id }) } else { Ok(()) }
}

/// An event from [`COLUMNS`] starting at column `first`.
pub(crate) fn event_from(row: &Row, first: usize, log_id: LogId) -> Result<RecordedEvent, StoreError> {
    let position = row.get::<_, i64>(first) as u64;
    let metadata = serde_json::from_slice(row.get::<_, &[u8]>(first + 7))
        .map_err(|error| StoreError::corrupt(&format!("metadata at position {position}"), error))?;
    Ok(RecordedEvent {
        log_id,
        position,
        version: row.get::<_, i64>(first + 1) as u64,
        recorded_at: row.get(first + 2),
        event_id: row.get(first + 3),
        stream: StreamName::parse(row.get(first + 4))?,
        event_type: EventType::parse(row.get(first + 5))?,
        payload: Bytes::copy_from_slice(row.get(first + 6)),
        metadata,
    })
}
