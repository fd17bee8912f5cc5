//! A subject: a person that personal data is about. Its id is that of the user, or that of the customer if there is no
//! user.
//! A stream exists only for subjects whose erasure was requested.

use uuid::Uuid;

use crate::engine::{Reason, StreamName, commands, enumeration, events};

/// State of an erasure.
#[enumeration]
pub enum ErasureStatus {
    /// It was requested and is in progress.
    Requested,
    /// The key is destroyed, and the personal data outside the log is deleted.
    Erased,
}

/// What has happened to a subject.
#[events("privacy.subject")]
pub enum SubjectEvent {
    /// The erasure of the subject was requested.
    #[event("erasure_requested.v1")]
    ErasureRequested {
        /// The reason, without personal data.
        reason: Option<Reason>,
    },
    /// The subject is erased. A proof that the log includes this event certifies it.
    #[event("erased.v1")]
    Erased {
        /// The key that was destroyed, if there was one. Events name it among their subject keys.
        key: Option<Uuid>,
        /// The streams with data of the subject. Its encrypted parts cannot be decrypted any more.
        streams: Vec<StreamName>,
        /// At this position of the log, read models and other derived data had no data of the subject.
        scrubbed_to: u64,
    },
}

/// The commands of a subject.
#[commands]
pub enum SubjectCommand {
    /// Requests the erasure of a subject.
    #[creates_or_changes]
    #[internal]
    RequestErasure { reason: Option<Reason> },
    /// Records that a subject is erased. The erasure process sends it.
    #[internal]
    RecordErasure { key: Option<Uuid>, streams: Vec<StreamName>, scrubbed_to: u64 },
}
