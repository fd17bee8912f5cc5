//! What is known to have been signed of a log, and what it says of the log as the database has it.

use proofs::{Checkpoint, Frontier};
use store::UnsealedLog;

use crate::AuditError;

/// A checkpoint that was signed before.
pub(super) struct KnownCheckpoint {
    pub(super) checkpoint: Checkpoint,
    /// The signed note, where it is there and this signer's: evidence that others can verify.
    pub(super) note: Option<String>,
}

/// That more events were signed than there are, where that is so.
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

/// Whether the first events are those that were signed, where a checkpoint of so many is known.
pub(super) fn compare(frontier: &Frontier, known_checkpoints: &[KnownCheckpoint]) -> Result<(), AuditError> {
    let size = frontier.size();
    let mut same = known_checkpoints.iter().filter(|seen| seen.checkpoint.size == size);
    if same.any(|seen| seen.checkpoint.root != frontier.root()) {
        return Err(AuditError::Rejected(format!("the first {size} events are not those that were signed")));
    }
    Ok(())
}
