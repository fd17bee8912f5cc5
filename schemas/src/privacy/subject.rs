//! A subject: a person that personal data is about. Its id is that of the user, or that of the customer if there is no
//! user.
//! A stream exists only for subjects whose erasure was requested.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::{Command, Reason, StreamName};

/// State of an erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErasureStatus {
    /// It was requested and is in progress.
    #[default]
    Requested,
    /// The key is destroyed, and the personal data outside the log is deleted.
    Erased,
}

crate::events! {
    /// What has happened to a subject.
    pub enum SubjectEvent in "privacy.subject" {
        /// Its erasure was asked for.
        "erasure_requested.v1" => ErasureRequested(SubjectErasureRequested),
        /// It is erased; the proof that this event stands in the log is the certificate.
        "erased.v1" => Erased(SubjectErased),
    }
}

/// Its erasure was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SubjectErasureRequested {
    /// On what ground, in a word; no personal data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// It is erased.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SubjectErased {
    /// The key that was destroyed, where there was one: events name it among their subject keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Uuid>,
    /// The streams that hold sealed parts which nobody can open any more.
    pub streams: Vec<StreamName>,
    /// Read models and whatever else follows from the log held nothing of the subject when they stood at this position.
    pub scrubbed_to: u64,
}

/// Asks for the erasure of a subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of SubjectErasureRequested")]
pub struct RequestErasure {
    #[serde(default)]
    pub reason: Option<Reason>,
}

/// Records that the subject is erased.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of SubjectErased")]
pub struct RecordErasure {
    pub key: Option<Uuid>,
    pub streams: Vec<StreamName>,
    pub scrubbed_to: u64,
}

impl Command for RequestErasure {
    const NAME: &'static str = "RequestErasure";
}

impl Command for RecordErasure {
    const NAME: &'static str = "RecordErasure";
}
