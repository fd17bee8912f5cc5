//! What is known to have been signed of a log, and what it says of the log as the database has it.

use proofs::{Checkpoint, Frontier};
use store::UnsealedLog;

use crate::AuditError;

/// A checkpoint that was signed before.
pub(super) struct Witness {
    pub(super) checkpoint: Checkpoint,
    /// The signed note, where it is there and this signer's: evidence that others can verify.
    pub(super) note: Option<String>,
}

/// That more events were signed than there are, where that is so.
pub(super) fn went_back(log: &UnsealedLog, witnesses: &[Witness]) -> Option<AuditError> {
    let head = log.head;
    let beyond = || witnesses.iter().filter(|seen| seen.checkpoint.size > head);
    let signed = beyond().map(|seen| seen.checkpoint.size).max()?;
    let own = beyond().filter_map(|seen| Some((seen.checkpoint.size, seen.note.clone()?)));
    Some(match own.max() {
        Some((signed, note)) => AuditError::WentBack { signed, head, note },
        None => AuditError::Refused(format!(
            "{signed} events were signed, the log has {head}, and the note that says so is not this signer's"
        )),
    })
}

/// Whether the first events are those that were signed, where a checkpoint of so many is known.
pub(super) fn compare(frontier: &Frontier, witnesses: &[Witness]) -> Result<(), AuditError> {
    let size = frontier.size();
    let mut same = witnesses.iter().filter(|seen| seen.checkpoint.size == size);
    if same.any(|seen| seen.checkpoint.root != frontier.root()) {
        return Err(AuditError::Refused(format!("the first {size} events are not those that were signed")));
    }
    Ok(())
}
