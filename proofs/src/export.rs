//! The export file: a history, or a part of it, that verifies without the product. One JSON object a line: a manifest,
//! the events in position order, an end. `docs/audit-format.md` describes it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::frame::Hash;

/// The name of this form of the file.
pub const FORMAT: &str = "annals-export/v1";

/// Bytes, in base64.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl From<Hash> for Base64 {
    fn from(hash: Hash) -> Self {
        Self(hash.to_vec())
    }
}

/// What the file holds, and what it is checked against.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// The tenant's public name.
    pub tenant: String,
    /// The log that the checkpoint speaks of.
    pub log_id: Uuid,
    /// The first position.
    pub from: u64,
    /// The last position.
    pub to: u64,
    /// The one stream that the file holds, with a path for each event; without it the file holds every event of the
    /// range, and `before` and `after` complete the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The signed note.
    pub checkpoint: String,
    /// The perfect subtrees over the events before `from`, from left to right.
    #[serde(default)]
    pub before: Vec<Base64>,
    /// The perfect subtrees over the events behind `to`, from left to right, each as large as its place allows.
    #[serde(default)]
    pub after: Vec<Base64>,
    /// Proofs that earlier sizes were the beginning of this log.
    #[serde(default)]
    pub consistency: Vec<Consistency>,
    /// When the file was made (RFC 3339).
    pub exported_at: String,
}

/// A proof that the log of `from` events was the beginning of the checkpoint's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "said above")]
pub struct Consistency {
    pub from: u64,
    pub path: Vec<Base64>,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its place in the log.
    pub position: u64,
    /// The entry as its row makes it.
    pub entry: Base64,
    /// The leaf as the log keeps it.
    pub leaf: Base64,
    /// What the entry's payload commitment binds.
    pub payload: Part,
    /// What the entry's metadata commitment binds.
    pub metadata: Part,
    /// In a file of one stream: the path from the leaf towards the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Vec<Base64>>,
}

/// Bytes with their salt, or why they are not here. Their leaf verifies either way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "said above")]
pub enum Part {
    Open { salt: Base64, bytes: Base64 },
    Absent { absent: Absent },
}

/// Why bytes are not in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Absent {
    /// They were destroyed; nobody has them.
    Redacted,
    /// Whoever made the file left them out.
    Withheld,
}

/// The last line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// How many events the file holds.
    pub events: u64,
}
