//! The SQL of the comparison of keys: events whose key is missing, and whether an event uses a key.

use std::collections::{BTreeSet, HashSet};

use keyring::StoredKey;
use schemas::engine::StreamName;
use store::{StoreError, TenantStore};
use uuid::Uuid;

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

/// The events after position `after` up to `to` whose key is neither stored nor destroyed.
pub(crate) async fn events_without_key(
    tenant: &TenantStore,
    after: u64,
    to: u64,
) -> Result<Vec<EventWithoutKey>, StoreError> {
    let Some(keyring) = tenant.store().keyring() else { return Ok(Vec::new()) };
    let (id, from, until) = (tenant.id().0, after as i64, to as i64);
    let transaction = tenant.begin().await?;
    let rows = transaction
        .query(
            "select position, subject_keys from events
             where tenant_id = $1 and position > $2 and position <= $3 and length(subject_keys) > 0 order by position",
            &[&id, &from, &until],
        )
        .await?;
    transaction.commit().await?;
    let named: Vec<(i64, Vec<Uuid>)> = rows.iter().map(|row| (row.get(0), ids(row.get(1)))).collect();
    let all: BTreeSet<Uuid> = named.iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let unknown: HashSet<Uuid> =
        keyring.unknown(tenant.id(), all.into_iter().collect()).await?.into_iter().collect();
    let positions: Vec<i64> = named
        .iter()
        .filter(|(_, keys)| keys.iter().any(|key| unknown.contains(key)))
        .map(|(position, _)| *position)
        .collect();
    if positions.is_empty() {
        return Ok(Vec::new());
    }
    let transaction = tenant.begin().await?;
    let rows = transaction
        .query(
            "select position, stream, payload from events where tenant_id = $1 and position = any($2)
             order by position",
            &[&id, &positions],
        )
        .await?;
    transaction.commit().await?;
    let mut found = Vec::new();
    for row in rows {
        // A subject that was fenced after its key was lost counts as erased, although no tombstone has the key id.
        for missing in keyring.missing_keys(tenant.id(), row.get(2)).await? {
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
pub(crate) async fn uses_key(tenant: &TenantStore, key: &StoredKey) -> Result<bool, StoreError> {
    let streams: Vec<&str> = key.streams.iter().map(StreamName::as_str).collect();
    let transaction = tenant.begin().await?;
    let (id, key) = (tenant.id().0, key.key.as_bytes().as_slice());
    let row = transaction
        .query_opt(
            "select 1 from events where tenant_id = $1 and stream = any($2)
             and position($3::bytea in subject_keys) > 0 limit 1",
            &[&id, &streams, &key],
        )
        .await?;
    transaction.commit().await?;
    Ok(row.is_some())
}

fn ids(bytes: &[u8]) -> Vec<Uuid> {
    bytes.chunks_exact(16).filter_map(|bytes| Uuid::from_slice(bytes).ok()).collect()
}
