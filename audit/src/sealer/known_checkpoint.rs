//! Checkpoints of a log that were signed earlier, and their comparison with the log in the database.

use super::rows::UnsealedLog;
use proofs::{Checkpoint, Frontier};

use crate::AuditError;

/// A checkpoint that was signed earlier.
pub(super) struct KnownCheckpoint {
    pub(super) checkpoint: Checkpoint,
    /// The signed note, if it exists and this signer signed it. Third parties can verify it.
    pub(super) note: Option<String>,
}

/// A rollback, if more events were signed than the log has.
pub(super) fn find_rollback(log: &UnsealedLog, known_checkpoints: &[KnownCheckpoint]) -> Option<AuditError> {
    let head = log.head;
    let beyond = || known_checkpoints.iter().filter(|seen| seen.checkpoint.size > head);
    let signed = beyond().map(|seen| seen.checkpoint.size).max()?;
    let own = beyond().filter_map(|seen| Some((seen.checkpoint.size, seen.note.clone()?)));
    Some(match own.max() {
        Some((signed, note)) => AuditError::RolledBack { signed, head, note },
        None => AuditError::Rejected(format!(
            "{signed} events were signed, the log has {head}, and the note that says so is not this signer's"
        )),
    })
}

/// Checks that the first events are the signed ones, if a known checkpoint has this size.
pub(super) fn compare(frontier: &Frontier, known_checkpoints: &[KnownCheckpoint]) -> Result<(), AuditError> {
    let size = frontier.size();
    let mut same = known_checkpoints.iter().filter(|seen| seen.checkpoint.size == size);
    if same.any(|seen| seen.checkpoint.root != frontier.root()) {
        return Err(AuditError::Rejected(format!("the first {size} events are not those that were signed")));
    }
    Ok(())
}
