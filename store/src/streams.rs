//! Pages and versions of single streams.

use bytes::Bytes;
use database::{RawRow, RawRows, Read, Value};
use schemas::engine::{EventType, LogId, RecordedEvent, StreamName, TenantId};

use crate::heads::{HEAD, field, head_in};
use crate::invariants::first_gap;
use crate::pools::get;
use crate::read::{COLUMNS, PageLimit, page_sql};
use crate::{Head, Invariant, Store, StoreError, TenantStore};

/// A page of one stream.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamPage {
    /// The log that holds the stream.
    pub log_id: LogId,
    /// The events, in order.
    pub events: Vec<RecordedEvent>,
    /// The version of the last event at the time of reading; 0 without events.
    pub version: u64,
}

/// The events of a stream from a version on, and the head, of one snapshot.
pub(crate) struct StreamRows {
    pub(crate) head: Head,
    /// The version of the last event, if it was asked for and there is one.
    pub(crate) last: Option<u64>,
    pub(crate) rows: RawRows,
}

impl StreamRows {
    /// The number of events.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the page was ended by the limit, so that there may be more events.
    pub(crate) fn is_full(&self, limit: PageLimit) -> bool {
        let bytes = |row: RawRow<'_>| [6, 7].map(|column| row.field(column).map_or(0, <[u8]>::len));
        limit.is_reached(self.rows.len(), self.rows.iter().flat_map(bytes).sum())
    }
}

impl TenantStore {
    /// A page of a stream from a version on, as stored.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    /// [`StoreError::TenantUnknown`] when the tenant does not exist.
    /// [`StoreError::InvariantViolated`] when the versions have a gap.
    /// [`StoreError::Corrupt`] when a stored event is invalid.
    pub async fn read_stream_page(
        &self,
        stream: &StreamName,
        from_version: u64,
        limit: PageLimit,
    ) -> Result<StreamPage, StoreError> {
        let page = self.stream_rows(stream, from_version, limit, true).await?;
        Ok(StreamPage {
            log_id: page.head.log_id,
            events: self.stream_events(&page, from_version)?,
            version: page.last.unwrap_or(0),
        })
    }

    /// The version of the last event of a stream; 0 without events.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn stream_version(&self, stream: &StreamName) -> Result<u64, StoreError> {
        let values = [Value::Uuid(self.id().0), Value::Text(stream.as_str())];
        Ok(version_from(&self.read_one(LAST_VERSION, &values).await?)?.unwrap_or(0))
    }

    /// The rows of a page of a stream, in one round trip.
    pub(crate) async fn stream_rows(
        &self,
        stream: &StreamName,
        from_version: u64,
        limit: PageLimit,
        with_last: bool,
    ) -> Result<StreamRows, StoreError> {
        let (tenant, stream) = (Value::Uuid(self.id().0), Value::Text(stream.as_str()));
        let (events_max, bytes_max) = limit.parameters();
        let page = [
            tenant,
            Value::Int8(events_max),
            Value::Int8(bytes_max),
            stream,
            Value::Int8(from_version as i64),
        ];
        let sql = page_sql(COLUMNS, "tenant_id = $1 and stream = $4 and version >= $5", "version");
        let (head, last) = ([tenant], [tenant, stream]);
        let group = [
            Read { sql: HEAD, values: &head },
            Read { sql: &sql, values: &page },
            Read { sql: LAST_VERSION, values: &last },
        ];
        let mut rows = self.read(&group[..if with_last { 3 } else { 2 }]).await?.into_iter();
        let (Some(head), Some(events)) = (rows.next(), rows.next()) else {
            return Err(StoreError::Corrupt("a group has fewer answers than statements".to_owned()));
        };
        let last = rows.next().as_ref().map(version_from).transpose()?.flatten();
        Ok(StreamRows { head: head_in(self.id(), &head)?, last, rows: events })
    }

    /// The events of a page of a stream. Their versions follow each other from `from_version` on.
    pub(crate) fn stream_events(
        &self,
        page: &StreamRows,
        from_version: u64,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let log_id = page.head.log_id;
        let events: Vec<_> = page.rows.iter().map(|row| event_from(row, log_id)).collect::<Result<_, _>>()?;
        let versions = events.iter().map(|event| event.version);
        if let Some(gap) = first_gap(from_version.max(1) - 1, versions) {
            let behind = events.iter().find(|event| event.version >= gap);
            let position = behind.map_or(0, |event| event.position);
            return Err(self.violation(Invariant::StreamVersions, position));
        }
        Ok(events)
    }
}

impl Store {
    /// A page of the streams of one category in all logs, by tenant and name, after `after`.
    /// One statement looks each tenant up, because a transaction for each of them would delay the start.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    /// [`StoreError::Corrupt`] when a stored stream name is invalid.
    pub async fn streams_of_category(
        &self,
        category: &str,
        after: Option<&(TenantId, StreamName)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, StreamName)>, StoreError> {
        // `0` follows `/`, which ends the category.
        let (first, end) = (format!("{category}/"), format!("{category}0"));
        let (tenant, stream) = after.map(|(tenant, stream)| (tenant.0, stream.as_str())).unzip();
        let rows = get(&self.0.pools.relay)
            .await?
            .query(
                "select h.tenant_id, s.stream
                 from heads h cross join lateral (
                     select e.stream from events e
                     where e.tenant_id = h.tenant_id and e.stream >= $1 and e.stream < $2 and e.version = 1
                       and (e.tenant_id > $3 or e.stream > $4 or $3 is null)
                     order by e.stream limit $5
                 ) s
                 where h.position > 0 and ($3::uuid is null or h.tenant_id >= $3)
                 order by h.tenant_id, s.stream limit $5",
                &[&first, &end, &tenant, &stream, &i64::from(limit)],
            )
            .await?;
        rows.iter().map(|row| Ok((TenantId(row.get(0)), StreamName::parse(row.get(1))?))).collect()
    }
}

const LAST_VERSION: &str =
    "select version from events where tenant_id = $1 and stream = $2 order by version desc limit 1";

fn version_from(rows: &RawRows) -> Result<Option<u64>, StoreError> {
    rows.iter().next().map(|row| Ok(field::<i64>(row, 0)? as u64)).transpose()
}

/// An event from [`COLUMNS`].
fn event_from(row: RawRow<'_>, log_id: LogId) -> Result<RecordedEvent, StoreError> {
    let position = field::<i64>(row, 0)? as u64;
    let metadata = serde_json::from_slice(field(row, 7)?)
        .map_err(|error| StoreError::corrupt(&format!("metadata at position {position}"), error))?;
    Ok(RecordedEvent {
        log_id,
        position,
        version: field::<i64>(row, 1)? as u64,
        recorded_at: field(row, 2)?,
        event_id: field(row, 3)?,
        stream: StreamName::parse(field(row, 4)?)?,
        event_type: EventType::parse(field(row, 5)?)?,
        payload: Bytes::copy_from_slice(field(row, 6)?),
        metadata,
    })
}
