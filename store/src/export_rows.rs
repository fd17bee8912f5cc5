//! Events with everything that their leaves commit to, for exports: stored bytes, salts and leaf hash, not decoded.

use bytes::Bytes;
use schemas::engine::{StreamName, TypePattern};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::read::{PageLimit, page_sql};
use crate::{StoreError, TenantStore};

/// A row of the log as stored, not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRow {
    /// The position in the log.
    pub position: u64,
    /// The version in the stream.
    pub version: u64,
    /// Microseconds since 1970 in UTC.
    pub recorded_at: i64,
    /// The id of the event.
    pub event_id: Uuid,
    /// The schema version of the event type.
    pub schema_version: u32,
    /// The encoding of the payload; 1 is JSON.
    pub payload_encoding: u8,
    /// The name of the stream.
    pub stream: String,
    /// The event type.
    pub event_type: String,
    /// The payload as stored.
    pub payload: Bytes,
    /// The metadata as stored, JSON.
    pub metadata: Bytes,
    /// The salt of the payload's commitment, then the salt of the metadata's; 16 bytes each.
    pub salts: Bytes,
    /// The encryption keys of sealed segments.
    pub subject_keys: Vec<Uuid>,
    /// The leaf hash; 32 bytes.
    pub leaf_hash: Bytes,
}

impl ExportRow {
    /// Whether the event type matches one of the patterns.
    pub fn is_of(&self, types: &[TypePattern]) -> bool {
        types.iter().any(|pattern| pattern.matches(&self.event_type))
    }
}

/// Maximum bytes of events per page, because an export holds several copies of a page.
const PAGE_BYTES_MAX: usize = 512 * 1024;
const COLUMNS: &str =
    "position, version, (extract(epoch from recorded_at) * 1000000)::int8, event_id, schema_version,
     payload_encoding, stream, type, payload, metadata, salts, subject_keys, leaf_hash";

impl TenantStore {
    /// Rows after position `after` up to `to`, at most `limit`, of one stream or of all.
    /// Large events end a page early, but a page has at least one row if any exists.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn export_rows(
        &self,
        after: u64,
        to: u64,
        stream: Option<&StreamName>,
        limit: usize,
    ) -> Result<Vec<ExportRow>, StoreError> {
        let mut matching = String::from("tenant_id = $1 and position > $4 and position <= $5");
        let (tenant, from, to) = (self.id().0, after as i64, to as i64);
        let (events_max, bytes_max) = PageLimit { events: limit, bytes: PAGE_BYTES_MAX }.parameters();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&tenant, &events_max, &bytes_max, &from, &to];
        let name;
        if let Some(stream) = stream {
            name = stream.as_str();
            parameters.push(&name);
            matching.push_str(" and stream = $6");
        }
        let sql = page_sql(COLUMNS, &matching, "position");
        let transaction = self.begin().await?;
        let rows = transaction.query(&sql, &parameters).await?;
        transaction.commit().await?;
        Ok(rows.iter().map(row_from).collect())
    }
}

fn row_from(row: &Row) -> ExportRow {
    let bytes = |column: usize| Bytes::copy_from_slice(row.get::<_, &[u8]>(column));
    let keys = row.get::<_, &[u8]>(11).chunks_exact(16);
    ExportRow {
        position: row.get::<_, i64>(0) as u64,
        version: row.get::<_, i64>(1) as u64,
        recorded_at: row.get(2),
        event_id: row.get(3),
        schema_version: row.get::<_, i32>(4) as u32,
        payload_encoding: row.get::<_, i16>(5) as u8,
        stream: row.get(6),
        event_type: row.get(7),
        payload: bytes(8),
        metadata: bytes(9),
        salts: bytes(10),
        subject_keys: keys.map(|key| Uuid::from_slice(key).expect("16 bytes are an id")).collect(),
        leaf_hash: bytes(12),
    }
}
