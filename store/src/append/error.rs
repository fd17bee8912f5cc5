//! Why an append fails.

use schemas::engine::StreamName;
use uuid::Uuid;

use crate::StoreError;

/// The reason why an append failed.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The stream does not have the expected version.
    #[error("the stream is at version {actual}")]
    VersionConflict {
        /// The version of the stream; 0 without events.
        actual: u64,
    },
    /// The idempotency key was used before for another command.
    #[error("the command id was used for another command")]
    CommandIdReused,
    /// An event of the tenant already has a given event id.
    #[error("an event with the id {0} is recorded already")]
    EventIdTaken(Uuid),
    /// Another stream holds a value that the append reserves.
    #[error("the {kind} is taken")]
    Reserved {
        /// The kind of value.
        kind: String,
        /// The stream that holds it.
        holder: StreamName,
    },
    /// An event or a secret exceeds its size limit.
    #[error("an event of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its size in bytes; for an event, with headers.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The append can never be stored.
    #[error("the append is invalid: {0}")]
    Invalid(String),
    /// The append contains personal data of an erased subject.
    #[error("the person was erased")]
    SubjectErased,
    /// The tenant does not exist.
    #[error("the tenant is unknown")]
    TenantUnknown,
    /// The queue is full, or the append lost too many retries; nothing was written.
    #[error("too many appends are waiting")]
    Overloaded,
    /// The database is unavailable. The append may have committed; a repeat with the same idempotency key is safe.
    #[error(transparent)]
    Unavailable(#[from] StoreError),
}
