//! Writes export files, which `proofs::verify` verifies offline.

use std::collections::HashSet;

use ::schemas::engine::{LogId, StreamName, TenantSlug, TypePattern, clock, recorded};
use bytes::Bytes;
use futures::Stream;
use proofs::export::{Absent, Base64, Consistency, End, FORMAT, Keys, Line, Manifest, Part};
use proofs::{Node, Span, tree};
use serde::Serialize;
use store::{ExportRow, KeyRecipient, LogIds, TenantStore};

use crate::AuditError;
use crate::{proof, schemas};

/// Maximum events of one read.
const PAGE_SIZE_MAX: usize = 500;
/// Maximum earlier sizes for which one file holds a proof.
pub const EARLIER_SIZES_MAX: usize = 100;

/// The part of a history to export.
#[derive(Debug, Clone, Default)]
pub struct Export {
    /// The first position; by default 1.
    pub from: Option<u64>,
    /// The last position; by default the newest sealed one.
    pub to: Option<u64>,
    /// Only this stream, with a path for each event.
    pub stream: Option<StreamName>,
    /// Events of these types are exported without payload and metadata.
    pub withhold: Vec<TypePattern>,
    /// Sizes of earlier checkpoints; the file proves that its log continues them.
    pub earlier: Vec<u64>,
    /// The recipient to whom the keys of encrypted parts are encrypted; without it the file holds no keys.
    pub keys_to: Option<KeyRecipient>,
}

/// A checked export that is ready to be written.
pub struct PreparedExport {
    tenant: TenantStore,
    log_ids: LogIds,
    manifest: Manifest,
    stream: Option<StreamName>,
    withhold: Vec<TypePattern>,
    keys_to: Option<KeyRecipient>,
    size: u64,
}

impl PreparedExport {
    /// Number of positions in the range of the file.
    pub fn span(&self) -> u64 {
        self.manifest.to + 1 - self.manifest.from
    }

    /// The log of the export.
    pub fn log_id(&self) -> LogId {
        LogId(self.manifest.log_id)
    }
}

/// Checks the request and reads the manifest.
///
/// # Errors
/// [`AuditError`] if the range is not sealed or does not exist.
pub async fn prepare(
    tenant: TenantStore,
    slug: &TenantSlug,
    export: Export,
) -> Result<PreparedExport, AuditError> {
    let highest = [export.from, export.to].into_iter().flatten().max();
    let sealed = proof::covering(&tenant, highest.unwrap_or(0)).await?;
    let (from, to) = (export.from.unwrap_or(1), export.to.unwrap_or(sealed.size));
    if from == 0 || from > to {
        return Err(AuditError::Bounds("`from` must be at least 1 and not above `to`"));
    }
    if export.earlier.len() > EARLIER_SIZES_MAX {
        return Err(AuditError::Bounds("too many earlier sizes"));
    }
    let (mut before, mut after) = (Vec::new(), Vec::new());
    if export.stream.is_none() {
        before = subtrees(&tenant, Span { start: 0, end: from - 1 }).await?;
        after = subtrees(&tenant, Span { start: to, end: sealed.size }).await?;
    }
    let mut consistency = Vec::new();
    for earlier in export.earlier.iter().copied() {
        let spans = tree::consistency(earlier, sealed.size)
            .ok_or(AuditError::Bounds("an earlier size must be at least 1 and not above the newest (a log that was replaced may be shorter than it was)"))?;
        let path = proof::hashes(&tenant, &spans).await?.into_iter().map(Base64::from).collect();
        consistency.push(Consistency { from: earlier, path });
    }
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        tenant: slug.to_string(),
        log_id: sealed.log_id.0,
        from,
        to,
        stream: export.stream.as_ref().map(ToString::to_string),
        checkpoint: sealed.note,
        before,
        after,
        consistency,
        keys_to: export.keys_to.as_ref().map(ToString::to_string),
        exported_at: recorded::timestamp(clock::now()),
    };
    let (log_ids, size) = (tenant.log_ids().await?, sealed.size);
    let Export { stream, withhold, keys_to, .. } = export;
    Ok(PreparedExport { tenant, log_ids, manifest, stream, withhold, keys_to, size })
}

async fn subtrees(tenant: &TenantStore, span: Span) -> Result<Vec<Base64>, AuditError> {
    let spans: Vec<Span> = span.nodes().into_iter().map(Node::span).collect();
    Ok(proof::hashes(tenant, &spans).await?.into_iter().map(Base64::from).collect())
}

/// The file, a few events at a time. The content of the database is written unchanged, even if it is wrong; the
/// verifier detects that.
pub fn write(prepared: PreparedExport) -> impl Stream<Item = Result<Bytes, AuditError>> + Send + 'static {
    async_stream::try_stream! {
        let PreparedExport { tenant, log_ids, manifest, stream, withhold, keys_to, size } = prepared;
        let (mut at, to) = (manifest.from - 1, manifest.to);
        yield Bytes::from(json_line(&manifest));
        let (mut events, mut described) = (0, HashSet::new());
        while at < to {
            let rows = tenant.export_rows(at, to, stream.as_ref(), PAGE_SIZE_MAX).await?;
            let Some(last) = rows.last() else { break };
            at = last.position;
            // The paths of a page are read at once: they share most of their subtrees.
            let path = |row: &ExportRow| tree::inclusion(row.position - 1, size).unwrap_or_default();
            let paths: Vec<Vec<Span>> = rows.iter().filter(|_| stream.is_some()).map(path).collect();
            let mut hashes = proof::hashes(&tenant, &paths.concat()).await?.into_iter();
            let mut text = Vec::new();
            if let Some(keys_to) = &keys_to {
                let open = rows.iter().filter(|row| !row.is_of(&withhold)).map(|row| row.payload.as_ref());
                for keys in tenant.export_keys(open, keys_to).await? {
                    text.extend_from_slice(json_line(&Keys { keys: Base64(keys) }).as_bytes());
                }
            }
            for (index, row) in rows.iter().enumerate() {
                let is_new = described.insert(row.event_type.clone());
                let schema = if is_new { schemas::of_type(&tenant, &row.event_type, to).await? } else { None };
                text.extend(schema.iter().map(json_line).flat_map(String::into_bytes));
                let mut line = line(row, log_ids.at(row.position), &withhold)?;
                line.path = paths.get(index).map(|spans| hashes.by_ref().take(spans.len()).map(Base64::from).collect());
                text.extend_from_slice(json_line(&line).as_bytes());
                events += 1;
            }
            yield Bytes::from(text);
        }
        yield Bytes::from(json_line(&End { events }));
    }
}

fn line(row: &ExportRow, log_id: LogId, withhold: &[TypePattern]) -> Result<Line, AuditError> {
    let (payload_salt, metadata_salt) = proof::salts(row)?;
    let withheld = row.is_of(withhold);
    let part = |salt: [u8; 16], bytes: &Bytes| {
        if withheld {
            return Part::Absent { absent: Absent::Withheld };
        }
        Part::Open { salt: Base64(salt.to_vec()), bytes: Base64(bytes.to_vec()) }
    };
    Ok(Line {
        position: row.position,
        entry: Base64(proof::entry(row, log_id)?),
        leaf: Base64(row.leaf_hash.to_vec()),
        payload: part(payload_salt, &row.payload),
        metadata: part(metadata_salt, &row.metadata),
        path: None,
    })
}

fn json_line(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).expect("these types always serialise");
    text.push('\n');
    text
}
