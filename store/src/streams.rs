//! Single streams by pages, their versions, and values that streams hold.

use bytes::Bytes;
use schemas::engine::{LogId, RecordedEvent, StreamName};

use crate::read::{PieceLimit, event_from, stream_rows};
use crate::tenant::reservation_digest;
use crate::{StoreError, TenantStore};

/// A page of one stream.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamPage {
    /// The log that holds the stream.
    pub log_id: LogId,
    /// The events, in order.
    pub events: Vec<RecordedEvent>,
    /// The version of the stream's last event at the time of reading; 0 where it has none.
    pub version: u64,
}

impl TenantStore {
    /// A piece of a stream from a version on, as stored.
    pub async fn read_stream_page(
        &self,
        stream: &StreamName,
        from_version: u64,
        limit: PieceLimit,
    ) -> Result<StreamPage, StoreError> {
        let transaction = self.begin_snapshot().await?;
        let head = transaction.head().await?;
        let last = transaction.query_opt(LAST_VERSION, &[&self.id().0, &stream.as_str()]).await?;
        let rows = stream_rows(&transaction, stream, from_version, limit).await?;
        transaction.commit().await?;
        let events = rows.iter().map(|row| event_from(row, 0, head.log_id)).collect::<Result<_, _>>()?;
        Ok(StreamPage {
            log_id: head.log_id,
            events,
            version: last.map_or(0, |row| row.get::<_, i64>(0) as u64),
        })
    }

    /// The version of a stream's last event; 0 where it has none.
    pub async fn stream_version(&self, stream: &StreamName) -> Result<u64, StoreError> {
        let transaction = self.begin().await?;
        let last = transaction.query_opt(LAST_VERSION, &[&self.id().0, &stream.as_str()]).await?;
        transaction.commit().await?;
        Ok(last.map_or(0, |row| row.get::<_, i64>(0) as u64))
    }

    /// The index of a value that a stream holds, where one of them is held; all in their normalised form.
    pub async fn first_reserved(&self, kind: &str, values: &[String]) -> Result<Option<usize>, StoreError> {
        let digest = |value: &String| reservation_digest(self.store().key(), self.id(), kind, value).to_vec();
        let digests: Vec<Vec<u8>> = values.iter().map(digest).collect();
        let transaction = self.begin().await?;
        let row = transaction
            .query_opt(
                "select value_hash from reservations where tenant_id = $1 and kind = $2 and value_hash = any($3) limit 1",
                &[&self.id().0, &kind, &digests],
            )
            .await?;
        transaction.commit().await?;
        let held = row.map(|row| Bytes::from(row.get::<_, Vec<u8>>(0)));
        Ok(held.and_then(|held| digests.iter().position(|digest| *digest == held)))
    }
}

const LAST_VERSION: &str =
    "select version from events where tenant_id = $1 and stream = $2 order by version desc limit 1";
