//! Replaced logs: the replacements that an export contains, and the checkpoints of the replaced logs.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{VerifyError, continues};
use crate::export::{Manifest, Part};
use crate::frame::Entry;
use crate::note::{Checkpoint, NoteError, VerifierKey};

const EVENT_TYPE: &str = "platform.log.replaced.v1";

/// A replacement of a log, as the new log records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replaced {
    /// The position of the replacement event, the first one of the new log.
    pub position: u64,
    /// The replaced log.
    pub old_log_id: Uuid,
    /// The last position that both logs have in common.
    pub kept_to: u64,
    /// The size up to which the old log was signed, if the event cites a checkpoint signed with the verified key.
    pub signed_to: Option<u64>,
}

/// The payload of the replacement event.
#[derive(Deserialize)]
struct ReplacementEvent {
    old_log_id: Uuid,
    new_log_id: Uuid,
    kept_to: u64,
    checkpoint: Option<String>,
}

/// The replacement in an event, if it is the first event of a log that replaced another.
pub(super) fn read_replacement(
    position: u64,
    entry: &Entry<'_>,
    payload: &Part,
    key: &VerifierKey,
) -> Option<Replaced> {
    let Part::Open { bytes, .. } = payload else { return None };
    if entry.event_type != EVENT_TYPE {
        return None;
    }
    let fact: ReplacementEvent = serde_json::from_slice(&bytes.0).ok()?;
    if fact.new_log_id != entry.log_id || fact.kept_to.checked_add(1) != Some(position) {
        return None;
    }
    let cited = fact.checkpoint.and_then(|note| signed(&note, key).ok());
    let cited = cited.filter(|checkpoint| checkpoint.log_id() == Some(fact.old_log_id));
    Some(Replaced {
        position,
        old_log_id: fact.old_log_id,
        kept_to: fact.kept_to,
        signed_to: cited.map(|checkpoint| checkpoint.size),
    })
}

/// The checkpoint of a note that the key has signed, for any log. Each log signs under its own name with the same key
/// pair.
pub(super) fn signed(note: &str, key: &VerifierKey) -> Result<Checkpoint, NoteError> {
    let origin = Checkpoint::unverified(note)?.origin;
    Checkpoint::parse(key.under(&origin)?.verify(note)?)
}

/// Checks whether the file's log continues a checkpoint of a replaced log.
pub(super) fn continues_older(
    manifest: &Manifest,
    checkpoint: &Checkpoint,
    older: &Checkpoint,
    replaced: &[Replaced],
) -> Result<(), VerifyError> {
    let from = older.size;
    let of_log = replaced.iter().filter(|replacement| Some(replacement.old_log_id) == older.log_id());
    let Some(replacement) = of_log.min_by_key(|replacement| replacement.kept_to) else {
        return Err(VerifyError::OtherLog { from, origin: older.origin.clone() });
    };
    if from > replacement.kept_to {
        return Err(VerifyError::Replaced {
            from,
            log: replacement.old_log_id,
            position: replacement.position,
            kept_to: replacement.kept_to,
        });
    }
    continues(manifest, checkpoint, older)
}
