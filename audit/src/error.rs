//! Errors of proofs and exports.

use proofs::{FrameError, NoteError};
use store::StoreError;

/// An error of the audit.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// No signed checkpoint covers the request yet; a retry after a few seconds may succeed.
    #[error("no signed checkpoint covers this yet: {0} events are sealed")]
    NotSealed(u64),
    /// The bounds are not valid for the log.
    #[error("{0}")]
    Bounds(&'static str),
    /// The log does not have this position or size; a retry does not help.
    #[error("the log ends at position {head}")]
    BeyondHead {
        /// The head of the log.
        head: u64,
    },
    /// The database is inconsistent: a row or a subtree is missing.
    #[error("the stored history is damaged: {0}")]
    Damaged(String),
    /// The signer refuses to sign, because the log in the database does not extend what was signed before.
    #[error("the signer refuses: {0}")]
    Rejected(String),
    /// The log has fewer events than were signed, and its events are the signed ones as far as the signer knows: the
    /// database was restored to an earlier state.
    #[error("{signed} events were signed, the log has {head}: the database went back")]
    RolledBack {
        /// Number of signed events.
        signed: u64,
        /// Number of events in the log.
        head: u64,
        /// The signed note.
        note: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key or a signed note is wrong.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// An event cannot be framed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The signer's folder cannot be used.
    #[error("the signer's folder {folder} cannot be used")]
    Folder {
        /// The folder.
        folder: std::path::PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl AuditError {
    /// Whether a retry may succeed.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_unavailable())
    }
}
