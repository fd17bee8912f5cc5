//! The export file: a history, or a part of it, that verifies without the product. One JSON object a line: a manifest,
//! the events in position order, among them the schemas of their types and keys, an end. `docs/audit-format.md` describes
//! it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::frame::Hash;

/// The name of this form of the file.
pub const FORMAT: &str = "annals-export/v1";
/// The types of the events with which services register the schemas of their types, and replace them by wider ones.
pub const REGISTERING: [&str; 2] =
    ["integration.event_type.registered.v1", "integration.event_type.widened.v1"];

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
    /// Who can read the keys that the file holds: a public key of the age format. Without it there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_to: Option<String>,
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
#[serde(deny_unknown_fields)]
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
#[serde(untagged, deny_unknown_fields)]
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

/// The schema of a type's payloads. It stands before the first event of the type, once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypeSchema {
    /// The type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The JSON Schema (2020-12).
    pub schema: Map<String, Value>,
    /// Of a type of the product's own: the version of the product that wrote the file. Nothing signed binds the schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Of a type that a service registered: the position of the event that holds the schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_at: Option<u64>,
}

/// What the payload of a registering event says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of TypeSchema")]
pub struct Registration {
    #[serde(rename = "type")]
    pub event_type: String,
    pub schema: Map<String, Value>,
}

/// Keys for the sealed parts of the events behind it, up to the next such lines. Several in a row hold together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// A file of the age format, for the manifest's `keys_to`.
    pub keys: Base64,
}

/// The last line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// How many events the file holds.
    pub events: u64,
}

/// A line behind the manifest. Its members tell which kind it is; there are no others.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "said above")]
pub enum Item {
    Event(Line),
    Schema(TypeSchema),
    Keys(Keys),
    End(End),
}

impl Item {
    /// Reads a line.
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        // Nearly all lines are events; the error of another attempt would tell nothing about one.
        let no_event = match serde_json::from_str(text) {
            Ok(event) => return Ok(Self::Event(event)),
            Err(error) => error,
        };
        let schema = || serde_json::from_str(text).map(Self::Schema);
        let keys = || serde_json::from_str(text).map(Self::Keys);
        let end = || serde_json::from_str(text).map(Self::End);
        schema().or_else(|_| keys()).or_else(|_| end()).map_err(|_| no_event)
    }
}
