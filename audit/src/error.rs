//! What can go wrong with proofs and exports.

use proofs::{FrameError, NoteError};
use store::StoreError;

/// An error of the audit.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// No signed checkpoint covers what was asked for yet; waiting a few seconds may help.
    #[error("no signed checkpoint covers this yet: {0} events are sealed")]
    NotSealed(u64),
    /// The bounds do not fit the log.
    #[error("{0}")]
    Bounds(&'static str),
    /// A position or a size that the log does not have: waiting does not help.
    #[error("the log ends at position {head}")]
    BeyondHead {
        /// Its end.
        head: u64,
    },
    /// What the database holds does not fit together: a row or a subtree is missing.
    #[error("the stored history is damaged: {0}")]
    Damaged(String),
    /// The signer refuses: what the database holds does not extend what was signed before.
    #[error("the signer refuses: {0}")]
    Rejected(String),
    /// The log has fewer events than were signed, and those that it has are the ones that were signed, as far as the signer
    /// knows: the database went back to an earlier state.
    #[error("{signed} events were signed, the log has {head}: the database went back")]
    RolledBack {
        /// How many were signed.
        signed: u64,
        /// How many there are.
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
    /// Whether trying again later may help.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_unavailable())
    }
}
