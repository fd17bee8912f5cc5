//! Pages and versions of single streams.

use schemas::engine::{LogId, RecordedEvent, StreamName};

use crate::read::{PageLimit, stream_rows};
use crate::{StoreError, TenantStore};

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

const LAST_VERSION: &str =
    "select version from events where tenant_id = $1 and stream = $2 order by version desc limit 1";
