//! Inclusion and consistency proofs from the database. They are not verified here: the caller verifies them against a
//! checkpoint, which the database cannot forge.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proofs::{CommitmentKind, Frame, Hash, Salt, Span, commitment, leaf_hash, tree};
use schemas::engine::LogId;
use serde::Serialize;
use store::{ExportRow, TenantStore};

use crate::AuditError;
use crate::merkle::{self, SealedLog};

/// A proof that an event is in the log. Hashes and entry are in base64.
#[derive(Debug, Clone, Serialize)]
pub struct InclusionProof {
    /// The position of the event.
    pub position: u64,
    /// The size of the log that the proof is for, in events.
    pub size: u64,
    /// The entry.
    pub entry: String,
    /// The hash of the entry.
    pub leaf_hash: String,
    /// The hashes from the leaf to the root.
    pub path: Vec<String>,
    /// The signed checkpoint of that size; `None` if that size was not signed.
    pub checkpoint: Option<String>,
}

/// A proof that the log of `to` events continues the log of `from` events.
#[derive(Debug, Clone, Serialize)]
pub struct ConsistencyProof {
    /// The smaller size, in events.
    pub from: u64,
    /// The larger size, in events.
    pub to: u64,
    /// The hashes of the proof, in base64.
    pub path: Vec<String>,
}

/// The newest checkpoint of a log.
///
/// # Errors
/// [`AuditError::NotSealed`] if the log has no checkpoint yet.
pub async fn newest(tenant: &TenantStore) -> Result<SealedLog, AuditError> {
    covering(tenant, 0).await
}

/// The newest checkpoint of a log. It must cover at least `events` events.
///
/// # Errors
/// [`AuditError::BeyondHead`] if the log has fewer events, [`AuditError::NotSealed`] if no checkpoint covers them yet.
pub(crate) async fn covering(tenant: &TenantStore, events: u64) -> Result<SealedLog, AuditError> {
    // The checkpoint is read before the head, so it never covers more than the head.
    let sealed = merkle::sealed_log(tenant).await?;
    let head = tenant.head().await?;
    if events > head.position {
        return Err(AuditError::BeyondHead { head: head.position });
    }
    let sealed = sealed.filter(|sealed| sealed.log_id == head.log_id && sealed.size > 0);
    match sealed {
        Some(sealed) if sealed.size >= events => Ok(sealed),
        sealed => Err(AuditError::NotSealed(sealed.map_or(0, |sealed| sealed.size))),
    }
}

/// Proves that an event is in the log of `size` events; by default the newest sealed size.
///
/// # Errors
/// [`AuditError::BeyondHead`] or [`AuditError::NotSealed`] if no checkpoint covers the position or the size.
pub async fn inclusion(
    tenant: &TenantStore,
    position: u64,
    size: Option<u64>,
) -> Result<InclusionProof, AuditError> {
    if position == 0 || size == Some(0) {
        return Err(AuditError::Bounds("positions and sizes start at 1"));
    }
    let sealed = covering(tenant, size.map_or(position, |size| size.max(position))).await?;
    let size = size.unwrap_or(sealed.size);
    let spans = tree::inclusion(position - 1, size)
        .ok_or(AuditError::Bounds("the position must not be beyond the size"))?;
    let row = tenant.export_rows(position - 1, position, None, 1).await?.pop();
    let row = row.ok_or_else(|| AuditError::Damaged(format!("there is no event at position {position}")))?;
    let entry = entry(&row, tenant.log_ids().await?.at(position))?;
    let checkpoint = match size {
        size if size == sealed.size => Some(sealed.note),
        size => merkle::signed_checkpoint(tenant, sealed.log_id, size).await?,
    };
    Ok(InclusionProof {
        position,
        size,
        leaf_hash: STANDARD.encode(leaf_hash(&entry)),
        entry: STANDARD.encode(&entry),
        path: path(tenant, &spans).await?,
        checkpoint,
    })
}

/// Proves that the log of `to` events continues the log of `from` events; by default `to` is the newest sealed size.
///
/// # Errors
/// [`AuditError::Bounds`] if the sizes are not valid, [`AuditError::NotSealed`] if no checkpoint covers them yet.
pub async fn consistency(
    tenant: &TenantStore,
    from: u64,
    to: Option<u64>,
) -> Result<ConsistencyProof, AuditError> {
    let sealed = covering(tenant, to.map_or(from, |to| to.max(from))).await?;
    let to = to.unwrap_or(sealed.size);
    let spans = tree::consistency(from, to)
        .ok_or(AuditError::Bounds("`from` must be at least 1 and not above `to`"))?;
    Ok(ConsistencyProof { from, to, path: path(tenant, &spans).await? })
}

async fn path(tenant: &TenantStore, spans: &[Span]) -> Result<Vec<String>, AuditError> {
    Ok(hashes(tenant, spans).await?.iter().map(|hash| STANDARD.encode(hash)).collect())
}

/// The hashes of these subtrees, in order.
///
/// # Errors
/// [`AuditError::Damaged`] if a subtree is missing in the database.
pub async fn hashes(tenant: &TenantStore, spans: &[Span]) -> Result<Vec<Hash>, AuditError> {
    if spans.is_empty() {
        return Ok(Vec::new());
    }
    let mut nodes: Vec<_> = spans.iter().flat_map(|span| span.nodes()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let found = merkle::subtrees(tenant, &nodes).await?;
    let missing = || AuditError::Damaged("leaves or subtrees are missing".to_owned());
    spans.iter().map(|span| span.hash(&found).ok_or_else(missing)).collect()
}

/// The entry of a stored row under the log id that it was written under. The stored leaf is not used.
///
/// # Errors
/// [`AuditError`] if the row is damaged or cannot be framed.
pub fn entry(row: &ExportRow, log_id: LogId) -> Result<Vec<u8>, AuditError> {
    let (payload_salt, metadata_salt) = salts(row)?;
    let frame = Frame {
        log_id: log_id.0,
        event_id: row.event_id,
        stream: &row.stream,
        version: row.version,
        event_type: &row.event_type,
        schema_version: row.schema_version,
        recorded_at: row.recorded_at,
        payload_encoding: row.payload_encoding,
        payload_commitment: commitment(CommitmentKind::Payload, &payload_salt, &row.payload),
        metadata_commitment: commitment(CommitmentKind::Metadata, &metadata_salt, &row.metadata),
        subject_keys: &row.subject_keys,
    };
    Ok(frame.encode()?)
}

/// The salts of payload and metadata.
///
/// # Errors
/// [`AuditError::Damaged`] if the stored salts have the wrong length.
pub fn salts(row: &ExportRow) -> Result<(Salt, Salt), AuditError> {
    let damaged = || AuditError::Damaged(format!("the salts at position {} are not 32 bytes", row.position));
    let salts: &[u8; 32] = row.salts.as_ref().try_into().map_err(|_| damaged())?;
    let (payload, metadata) = salts.split_at(16);
    Ok((payload.try_into().map_err(|_| damaged())?, metadata.try_into().map_err(|_| damaged())?))
}
