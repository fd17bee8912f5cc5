//! Inclusion and consistency proofs from what the database holds. They are not checked here: whoever asks does that,
//! against a checkpoint that the database cannot forge.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proofs::{CommitmentKind, Frame, Hash, Salt, Span, commitment, leaf_hash, tree};
use schemas::engine::LogId;
use serde::Serialize;
use store::{ExportRow, SealedLog, TenantStore};

use crate::AuditError;

/// That an event is in the log. Hashes and entry in base64, the path from the leaf towards the root.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the public contract")]
pub struct InclusionProof {
    pub position: u64,
    pub size: u64,
    pub entry: String,
    pub leaf_hash: String,
    pub path: Vec<String>,
    /// The signed note over that size; `None` where no checkpoint of that size was signed.
    pub checkpoint: Option<String>,
}

/// That a log of `from` events is the beginning of that of `to` events.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the public contract")]
pub struct ConsistencyProof {
    pub from: u64,
    pub to: u64,
    pub path: Vec<String>,
}

/// The newest checkpoint of a log.
pub async fn newest(tenant: &TenantStore) -> Result<SealedLog, AuditError> {
    covering(tenant, 0).await
}

/// The newest checkpoint of a log, which must cover so many events.
///
/// # Errors
/// [`AuditError::BeyondHead`] when the log has fewer events, [`AuditError::NotSealed`] when no checkpoint covers them yet.
pub(crate) async fn covering(tenant: &TenantStore, events: u64) -> Result<SealedLog, AuditError> {
    // The checkpoint first: it covers no more than a head that is read behind it.
    let sealed = tenant.sealed_log().await?;
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

/// Proves an event to be in the log of `size` events, the newest sealed size where none is named.
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
        size => tenant.signed_checkpoint(sealed.log_id, size).await?,
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

/// Proves that the log of `from` events is the beginning of that of `to` events, the newest sealed size where none is
/// named.
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

/// The hashes of these subtrees, in their order.
pub async fn hashes(tenant: &TenantStore, spans: &[Span]) -> Result<Vec<Hash>, AuditError> {
    if spans.is_empty() {
        return Ok(Vec::new());
    }
    let mut nodes: Vec<_> = spans.iter().flat_map(|span| span.nodes()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let found = tenant.subtrees(&nodes).await?;
    let missing = || AuditError::Damaged("leaves or subtrees are missing".to_owned());
    spans.iter().map(|span| span.hash(&found).ok_or_else(missing)).collect()
}

/// The entry that a stored row makes under the log id that it was written under, whatever its stored leaf says.
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
pub fn salts(row: &ExportRow) -> Result<(Salt, Salt), AuditError> {
    let damaged = || AuditError::Damaged(format!("the salts at position {} are not 32 bytes", row.position));
    let salts: &[u8; 32] = row.salts.as_ref().try_into().map_err(|_| damaged())?;
    let (payload, metadata) = salts.split_at(16);
    Ok((payload.try_into().map_err(|_| damaged())?, metadata.try_into().map_err(|_| damaged())?))
}
