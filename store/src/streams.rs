//! Pages and versions of single streams.

use schemas::engine::{LogId, RecordedEvent, StreamName, TenantId};

use crate::pools::get;
use crate::read::{PageLimit, stream_rows};
use crate::{Store, StoreError, TenantStore};

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
        let transaction = self.begin_snapshot().await?;
        let head = transaction.head().await?;
        let last = transaction.query_opt(LAST_VERSION, &[&self.id().0, &stream.as_str()]).await?;
        let rows = stream_rows(&transaction, stream, from_version, limit).await?;
        transaction.commit().await?;
        Ok(StreamPage {
            log_id: head.log_id,
            events: self.stream_events(&rows, from_version, head.log_id)?,
            version: last.map_or(0, |row| row.get::<_, i64>(0) as u64),
        })
    }

    /// The version of the last event of a stream; 0 without events.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn stream_version(&self, stream: &StreamName) -> Result<u64, StoreError> {
        let transaction = self.begin().await?;
        let last = transaction.query_opt(LAST_VERSION, &[&self.id().0, &stream.as_str()]).await?;
        transaction.commit().await?;
        Ok(last.map_or(0, |row| row.get::<_, i64>(0) as u64))
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
