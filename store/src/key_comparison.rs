//! Compares the key store with the log: events whose key is missing, and keys that no event uses.

use std::collections::{BTreeSet, HashSet};

use keyring::StoredKey;
use schemas::engine::StreamName;
use uuid::Uuid;

use crate::{StoreError, TenantStore};

/// An event that cannot be read, because its key is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventWithoutKey {
    /// The position of the event.
    pub position: u64,
    /// The stream of the event.
    pub stream: String,
    /// The subject of the key.
    pub subject: Uuid,
    /// The id of the missing key.
    pub key: Uuid,
}

impl TenantStore {
    /// The events after position `after` up to `to` whose key is neither stored nor destroyed.
    pub async fn events_without_key(&self, after: u64, to: u64) -> Result<Vec<EventWithoutKey>, StoreError> {
        let Some(keyring) = self.store().keyring() else { return Ok(Vec::new()) };
        let (tenant, from, until) = (self.id().0, after as i64, to as i64);
        let transaction = self.begin().await?;
        let rows = transaction
            .query(
                "select position, subject_keys from events
                 where tenant_id = $1 and position > $2 and position <= $3 and length(subject_keys) > 0 order by position",
                &[&tenant, &from, &until],
            )
            .await?;
        transaction.commit().await?;
        let named: Vec<(i64, Vec<Uuid>)> = rows.iter().map(|row| (row.get(0), ids(row.get(1)))).collect();
        let all: BTreeSet<Uuid> = named.iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let unknown: HashSet<Uuid> =
            keyring.unknown(self.id(), all.into_iter().collect()).await?.into_iter().collect();
        let positions: Vec<i64> = named
            .iter()
            .filter(|(_, keys)| keys.iter().any(|key| unknown.contains(key)))
            .map(|(position, _)| *position)
            .collect();
        if positions.is_empty() {
            return Ok(Vec::new());
        }
        let transaction = self.begin().await?;
        let rows = transaction
            .query(
                "select position, stream, payload from events where tenant_id = $1 and position = any($2)
                 order by position",
                &[&tenant, &positions],
            )
            .await?;
        transaction.commit().await?;
        let mut found = Vec::new();
        for row in rows {
            // A subject that was fenced after its key was lost counts as erased, although no tombstone has the key id.
            for missing in keyring.missing_keys(self.id(), row.get(2)).await? {
                found.push(EventWithoutKey {
                    position: row.get::<_, i64>(0) as u64,
                    stream: row.get(1),
                    subject: missing.subject,
                    key: missing.key,
                });
            }
        }
        Ok(found)
    }

    /// Whether an event uses the key. It checks the streams that are recorded with the key.
    pub async fn uses_key(&self, key: &StoredKey) -> Result<bool, StoreError> {
        let streams: Vec<&str> = key.streams.iter().map(StreamName::as_str).collect();
        let transaction = self.begin().await?;
        let (tenant, id) = (self.id().0, key.key.as_bytes().as_slice());
        let row = transaction
            .query_opt(
                "select 1 from events where tenant_id = $1 and stream = any($2)
                 and position($3::bytea in subject_keys) > 0 limit 1",
                &[&tenant, &streams, &id],
            )
            .await?;
        transaction.commit().await?;
        Ok(row.is_some())
    }
}

fn ids(bytes: &[u8]) -> Vec<Uuid> {
    bytes.chunks_exact(16).filter_map(|bytes| Uuid::from_slice(bytes).ok()).collect()
}
