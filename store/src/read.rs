//! Reading a tenant's log: by stream, by page, to the head, or for ever. Pages are short transactions; because positions
//! are dense, a page's bounds are known beforehand and nothing is missed between two.

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::Stream;
use schemas::engine::{EventType, InvalidValue, LogId, RecordedEvent, StreamName, TypePattern};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::{Head, Receipt, StoreError, TenantStore, TenantTransaction};

/// Events in one page of a streaming read.
const PAGE_EVENTS_MAX: usize = 500;
/// Bytes of events after which every page ends, so that what a reader holds does not depend on how large events are.
const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Most positions that one page scans for events that match a filter.
const PAGE_SCAN_POSITIONS_MAX: u64 = 20_000;
/// How often a tail looks without having been woken.
const TAIL_POLL_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) const COLUMNS: &str = "position, version, recorded_at, event_id, stream, type, payload, metadata";

/// Which events of a log to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// Types to read; empty reads all.
    pub types: Vec<TypePattern>,
    /// The streams to read.
    pub stream: Option<StreamFilter>,
}

/// A filter over streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamFilter {
    /// One stream.
    Exact(StreamName),
    /// All streams of a category (`<context>.<aggregate>`).
    Category(String),
}

impl FromStr for StreamFilter {
    type Err = InvalidValue;

    /// `<category>/<id>` or `<category>/*`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(category) = text.strip_suffix("/*") {
            // Checked as a stream of that category.
            StreamName::parse(&format!("{category}/x"))?;
            return Ok(Self::Category(category.to_owned()));
        }
        StreamName::parse(text).map(Self::Exact)
    }
}

/// Where a piece of a log or of a stream ends: behind the event with which it has so many events or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    /// Events at most.
    pub events: usize,
    /// Bytes of payloads and metadata; the last event may go beyond.
    pub bytes: usize,
}

impl PageLimit {
    pub(crate) fn parameters(self) -> (i64, i64) {
        (self.events as i64, self.bytes as i64)
    }

    /// Whether a piece of so many events and bytes ended by the limit, so that there may be more.
    pub(crate) fn is_reached(self, events: usize, bytes: usize) -> bool {
        events >= self.events || bytes >= self.bytes
    }
}

/// The statement that reads a piece: at most $2 rows, up to the one with which their payloads and metadata have $3 bytes.
/// Lengths are told without unpacking what is stored out of line.
pub(crate) fn page_sql(columns: &str, matching: &str, order: &str) -> String {
    let bytes = "octet_length(payload) + octet_length(metadata)";
    format!(
        "select {columns} from (
             select *, sum({bytes}) over (order by {order} rows unbounded preceding) - ({bytes}) as bytes_before
             from events where {matching} order by {order} limit $2
         ) piece where bytes_before < $3 order by {order}"
    )
}

/// The bytes of a row's payload, at this column, and of its metadata behind it.
pub(crate) fn stored_bytes(row: &Row, payload: usize) -> usize {
    row.get::<_, &[u8]>(payload).len() + row.get::<_, &[u8]>(payload + 1).len()
}

/// A piece of a stream from a version on, as [`COLUMNS`].
pub(crate) async fn stream_rows(
    transaction: &TenantTransaction,
    stream: &StreamName,
    from_version: u64,
    limit: PageLimit,
) -> Result<Vec<Row>, StoreError> {
    let (events_max, bytes_max) = limit.parameters();
    let sql = page_sql(COLUMNS, "tenant_id = $1 and stream = $4 and version >= $5", "version");
    let parameters: [&(dyn ToSql + Sync); 5] =
        [&transaction.tenant().0, &events_max, &bytes_max, &stream.as_str(), &(from_version as i64)];
    transaction.query(&sql, &parameters).await
}

/// A page of a log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogPage {
    /// The log read.
    pub log_id: LogId,
    /// The events that match, in position order.
    pub events: Vec<RecordedEvent>,
    /// The last position looked at: where the next page starts behind.
    pub scanned_to: u64,
    /// The head at the time of reading.
    pub head: u64,
}

impl TenantStore {
    /// A page of at most `limit` events, as stored, behind position `after`, up to `up_to` or the head. Few matches in a long log
    /// end a page early, as do large events: `scanned_to` says how far it came.
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

    /// The same, ending behind the event with which it has `bytes` as well.
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
        // One stream is read by its own index, so the whole log may be in reach.
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
        Ok(page)
    }

    /// The log, and the last position of it that was recorded by a time: 0 where none was. Times never decrease along
    /// the positions, so it is found by halving.
    pub async fn position_at(&self, time: DateTime<Utc>) -> Result<(Head, u64), StoreError> {
        let transaction = self.begin_snapshot().await?;
        let head = transaction.head().await?;
        // Everything up to `by` was recorded by then, everything from `later` on was not.
        let (mut by, mut later) = (0, head.position + 1);
        if head.recorded_at <= time {
            by = head.position;
        }
        while by + 1 < later {
            let middle = by + (later - by) / 2;
            let sql = "select recorded_at <= $3 from events where tenant_id = $1 and position = $2";
            let row = transaction.query_opt(sql, &[&self.id().0, &(middle as i64), &time]).await?;
            let row = row.ok_or_else(|| StoreError::corrupt("the log", format!("no event at {middle}")))?;
            if row.get(0) {
                by = middle;
            } else {
                later = middle;
            }
        }
        transaction.commit().await?;
        Ok((head, by))
    }

    /// The position of an event, by its place in its stream.
    pub async fn position_of(&self, stream: &StreamName, version: u64) -> Result<Option<u64>, StoreError> {
        let transaction = self.begin().await?;
        let sql = "select position from events where tenant_id = $1 and stream = $2 and version = $3";
        let row = transaction.query_opt(sql, &[&self.id().0, &stream.as_str(), &(version as i64)]).await?;
        transaction.commit().await?;
        Ok(row.map(|row| row.get::<_, i64>(0) as u64))
    }

    /// The names of streams whose categories begin like this, a page in their order, behind one of them.
    pub async fn streams(
        &self,
        beginning: &str,
        after: Option<&StreamName>,
        limit: u32,
    ) -> Result<Vec<StreamName>, StoreError> {
        let transaction = self.begin().await?;
        // By their bytes, as the index has them: all that begin so stand before the beginning with the last code point.
        let end = format!("{beginning}\u{10FFFF}");
        let after = after.map_or(beginning, StreamName::as_str);
        let sql = "select stream from events
                   where tenant_id = $1 and version = 1 and stream > $2 and stream < $3 order by stream limit $4";
        let rows = transaction.query(sql, &[&self.id().0, &after, &end, &i64::from(limit)]).await?;
        transaction.commit().await?;
        rows.iter().map(|row| Ok(StreamName::parse(row.get(0))?)).collect()
    }

    /// One stream from a version on, in order, with its personal data open.
    pub fn read_stream(
        &self,
        stream: &StreamName,
        from_version: u64,
    ) -> impl Stream<Item = Result<RecordedEvent, StoreError>> + Send + 'static {
        self.read_stream_of(None, stream, from_version)
    }

    /// The same for a reader whose version is of a log, where one is named: refused when the tenant has another by now.
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
                let transaction = handle.begin().await?;
                let head = transaction.head().await?;
                ensure_same_log(log, head.log_id)?;
                let limit = PageLimit { events: PAGE_EVENTS_MAX, bytes: PAGE_BYTES_MAX };
                let rows = stream_rows(&transaction, &stream, next, limit).await?;
                transaction.commit().await?;
                let full = limit.is_reached(rows.len(), rows.iter().map(|row| stored_bytes(row, 6)).sum());
                let events = rows.iter().map(|row| event_from(row, 0, head.log_id)).collect::<Result<_, _>>()?;
                for event in handle.open(events).await? {
                    yield event;
                }
                if !full {
                    return;
                }
                next += rows.len() as u64;
            }
        }
    }

    /// The log behind `after`, up to the head as it is now.
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

    /// The log behind `after`, and then whatever comes. Ends only with an error, such as that the log is another one than
    /// at the beginning, or than the one named.
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
                // Marked as seen before reading, so that a move during the read wakes at once.
                moved.mark_unchanged();
                let page = handle.read_log_page(at, None, PAGE_EVENTS_MAX, &filter).await?;
                ensure_continuous(log, end, &page)?;
                (log, end) = (Some(page.log_id), page.head);
                at = page.scanned_to;
                for event in page.events {
                    yield event;
                }
                if at >= page.head {
                    // A time-out is as good as a signal: either way the log is looked at.
                    drop(tokio::time::timeout(TAIL_POLL_INTERVAL, moved.changed()).await);
                }
            }
        }
    }
}

fn ensure_same_log(named: Option<LogId>, current: LogId) -> Result<(), StoreError> {
    match named {
        Some(named) if named != current => Err(StoreError::LogReplaced { current }),
        _ => Ok(()),
    }
}

/// A page of the same log as before, which has not become shorter.
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

/// A receipt from `stream, version, first_position, count, log_id` starting at column `first`.
pub(crate) fn receipt_from(row: &Row, first: usize) -> Result<Receipt, StoreError> {
    let first_position = row.get::<_, i64>(first + 2) as u64;
    let count = row.get::<_, i32>(first + 3) as u32;
    Ok(Receipt {
        stream: StreamName::parse(row.get(first))?,
        version: row.get::<_, i64>(first + 1) as u64,
        log_id: LogId(row.get(first + 4)),
        first_position,
        position: first_position + u64::from(count).saturating_sub(1),
        count,
        duplicate: true,
    })
}
