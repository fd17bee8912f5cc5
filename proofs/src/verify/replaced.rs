//! Logs that were replaced because their database went back: what an export tells of that, and what becomes of the
//! checkpoints of a log that is no more.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{VerifyError, continues};
use crate::export::{Manifest, Part};
use crate::frame::Entry;
use crate::note::{Checkpoint, NoteError, VerifierKey};

const EVENT_TYPE: &str = "platform.log.replaced.v1";

/// That a log was replaced, as the log that came after tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replaced {
    /// Where it tells: the first position that is its own.
    pub position: u64,
    /// The log that ended.
    pub old_log_id: Uuid,
    /// The last position that both have in common.
    pub kept_to: u64,
    /// Up to where the old log was signed, where the fact cites a checkpoint that the verifying key's owner has signed.
    pub signed_to: Option<u64>,
}

/// What the event's payload says.
#[derive(Deserialize)]
struct ReplacementEvent {
    old_log_id: Uuid,
    new_log_id: Uuid,
    kept_to: u64,
    checkpoint: Option<String>,
}

/// What an event tells, where it is the first of a log that came after another.
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

/// The checkpoint in a note that the owner of the key has signed, whichever log it is of: each log signs under its own
/// name, with one key pair.
pub(super) fn signed(note: &str, key: &VerifierKey) -> Result<Checkpoint, NoteError> {
    let origin = Checkpoint::unverified(note)?.origin;
    Checkpoint::parse(key.under(&origin)?.verify(note)?)
}

/// Whether the file's log continues a checkpoint of a log that it came after.
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
