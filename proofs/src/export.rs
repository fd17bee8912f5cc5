//! The export file: a history, or a part of it, that verifies offline. `docs/audit-format.md` describes it.
//!
//! Each line is one JSON object: first a manifest, then the events in position order with the schemas of their types
//! and keys, then an end.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::frame::Hash;
use crate::json::{Json, JsonError, Members};

/// The name of the file format.
pub const FORMAT: &str = "annals-export/v1";
/// The event types that register a schema of a service, or replace it by a wider one.
pub const REGISTRATION_EVENT_TYPES: [&str; 2] =
    ["integration.event_type.registered.v1", "integration.event_type.widened.v1"];

/// Maximum integer in a file. The store keeps a position as a signed 64-bit number.
pub const INTEGER_MAX: u64 = i64::MAX as u64;

/// Bytes, written in base64.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl From<Hash> for Base64 {
    fn from(hash: Hash) -> Self {
        Self(hash.to_vec())
    }
}

/// The first line: what the file contains, and what it is verified against.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// The tenant's public name.
    pub tenant: String,
    /// The log of the checkpoint.
    pub log_id: Uuid,
    /// The first position.
    pub from: u64,
    /// The last position.
    pub to: u64,
    /// The only stream in the file; each event then has a path. Without it the file holds every event of the range, and
    /// `before` and `after` complete the tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The signed checkpoint, a signed note.
    pub checkpoint: String,
    /// The perfect subtrees over the events before `from`, from left to right.
    pub before: Vec<Base64>,
    /// The perfect subtrees over the events after `to`, from left to right, each as large as possible.
    pub after: Vec<Base64>,
    /// Proofs that the log continues earlier sizes.
    pub consistency: Vec<Consistency>,
    /// The public key (age format) to which the keys in the file are encrypted. Without it the file holds no keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_to: Option<String>,
    /// When the file was made (RFC 3339).
    pub exported_at: String,
}

/// A proof that the log of the checkpoint continues the log of `from` events.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Consistency {
    /// Number of events of the earlier log.
    pub from: u64,
    /// The hashes of the proof.
    pub path: Vec<Base64>,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Its position in the log.
    pub position: u64,
    /// The entry, computed from the stored row.
    pub entry: Base64,
    /// The leaf that the log stores.
    pub leaf: Base64,
    /// The bytes of the entry's payload commitment.
    pub payload: Part,
    /// The bytes of the entry's metadata commitment.
    pub metadata: Part,
    /// In a file of one stream: the path from the leaf to the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Vec<Base64>>,
}

/// Bytes with their salt, or the reason why they are absent. The leaf verifies in both cases.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "said above")]
pub enum Part {
    Open { salt: Base64, bytes: Base64 },
    Absent { absent: Absent },
}

/// Why bytes are not in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Absent {
    /// They were destroyed.
    Redacted,
    /// The exporter left them out.
    Withheld,
}

/// The schema of a type's payloads. It occurs once, before the first event of the type.
#[derive(Debug, Clone, Serialize)]
pub struct TypeSchema {
    /// The type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The JSON Schema (2020-12), an object.
    pub schema: Box<RawValue>,
    /// For a type of the product: the version of the product that wrote the file. The schema is not covered by a
    /// signature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// For a type of a service: the position of the event that holds the schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registered_at: Option<u64>,
}

/// The payload of a registration event.
#[derive(Debug, Clone)]
pub struct Registration {
    /// The type.
    pub event_type: String,
    /// The JSON Schema (2020-12).
    pub schema: Box<RawValue>,
}

/// Keys for the encrypted parts of the following events, up to the next such lines. Consecutive lines belong together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Keys {
    /// A file in the age format, encrypted to the manifest's `keys_to`.
    pub keys: Base64,
}

/// The last line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct End {
    /// Number of events in the file.
    pub events: u64,
}

/// A line after the manifest. Its members identify its kind; other members are not allowed.
#[derive(Debug, Clone)]
pub enum Item {
    /// An event.
    Event(Line),
    /// The schema of a type.
    Schema(TypeSchema),
    /// Keys for encrypted parts.
    Keys(Keys),
    /// The last line.
    End(End),
}

/// Why a line is not valid in an export.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It is not JSON that exports allow.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Its members are those of no kind of line.
    #[error("the line has not exactly the members of {0}")]
    Members(&'static str),
    /// A member has the wrong type.
    #[error("{0} is not of its type")]
    Type(&'static str),
}

impl Manifest {
    /// Parses the first line.
    ///
    /// # Errors
    /// [`FormatError`] if the line is not a manifest.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let mut fields = Fields::of("a manifest", Json::parse(text)?)?;
        let manifest = Self {
            format: fields.take("format", text_of)?,
            tenant: fields.take("tenant", text_of)?,
            log_id: fields.take("log_id", id)?,
            from: fields.take("from", whole)?,
            to: fields.take("to", whole)?,
            stream: fields.optional("stream", text_of)?,
            checkpoint: fields.take("checkpoint", text_of)?,
            before: fields.take("before", hashes)?,
            after: fields.take("after", hashes)?,
            consistency: fields.take("consistency", consistency)?,
            keys_to: fields.optional("keys_to", text_of)?,
            exported_at: fields.take("exported_at", text_of)?,
        };
        fields.end(manifest)
    }
}

impl Item {
    /// Parses a line after the first.
    ///
    /// # Errors
    /// [`FormatError`] if the line is of no known kind.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let Json::Object(members) = Json::parse(text)? else { return Err(FormatError::Members("any kind")) };
        let (events, schema, keys) = ("an event", "a schema", "keys");
        let has = |name: &str| members.contains_key(name);
        let what = if has("position") {
            events
        } else if has("schema") {
            schema
        } else if has(keys) {
            keys
        } else {
            "an end"
        };
        let mut fields = Fields { what, members };
        let item = match what {
            what if what == events => Self::Event(Line {
                position: fields.take("position", whole)?,
                entry: fields.take("entry", bytes)?,
                leaf: fields.take("leaf", hash)?,
                payload: fields.take("payload", part)?,
                metadata: fields.take("metadata", part)?,
                path: fields.optional("path", hashes)?,
            }),
            what if what == schema => Self::Schema(TypeSchema {
                event_type: fields.take("type", text_of)?,
                schema: fields.take("schema", object)?,
                product: fields.optional("product", text_of)?,
                registered_at: fields.optional("registered_at", whole)?,
            }),
            what if what == keys => Self::Keys(Keys { keys: fields.take(keys, bytes)? }),
            _ => Self::End(End { events: fields.take("events", whole)? }),
        };
        fields.end(item)
    }
}

impl Registration {
    /// Parses a payload; `None` if it does not name a type and its schema.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let json = Json::parse(std::str::from_utf8(payload).ok()?).ok()?;
        let mut fields = Fields::of("a registration", json).ok()?;
        let event_type = fields.take("type", text_of).ok()?;
        Some(Self { event_type, schema: fields.take("schema", object).ok()? })
    }
}

/// The members of an object that are not parsed yet.
struct Fields<'a> {
    what: &'static str,
    members: Members<'a>,
}

/// Converts a value; `None` if it has the wrong type.
type Read<'a, T> = fn(Json<'a>) -> Option<T>;

impl<'a> Fields<'a> {
    fn of(what: &'static str, value: Json<'a>) -> Result<Self, FormatError> {
        match value {
            Json::Object(members) => Ok(Self { what, members }),
            _ => Err(FormatError::Members(what)),
        }
    }

    fn take<T>(&mut self, name: &'static str, read: Read<'a, T>) -> Result<T, FormatError> {
        self.optional(name, read)?.ok_or(FormatError::Members(self.what))
    }

    fn optional<T>(&mut self, name: &'static str, read: Read<'a, T>) -> Result<Option<T>, FormatError> {
        let Some(value) = self.members.remove(name) else { return Ok(None) };
        read(value).map(Some).ok_or(FormatError::Type(name))
    }

    /// Returns `read` if no members are left.
    fn end<T>(self, read: T) -> Result<T, FormatError> {
        if self.members.is_empty() { Ok(read) } else { Err(FormatError::Members(self.what)) }
    }
}

fn text_of(value: Json<'_>) -> Option<String> {
    if let Json::Text(text) = value { Some(text.into_owned()) } else { None }
}

/// An integer from 0 to [`INTEGER_MAX`], written without sign, fraction or exponent.
fn whole(value: Json<'_>) -> Option<u64> {
    let Json::Number(text) = value else { return None };
    let number: u64 = text.parse().ok()?;
    (number <= INTEGER_MAX && text == number.to_string()).then_some(number)
}

/// A UUID in lower case with hyphens.
fn id(value: Json<'_>) -> Option<Uuid> {
    let text = text_of(value)?;
    Uuid::try_parse(&text).ok().filter(|id| id.to_string() == text)
}

/// Standard base64 in its canonical form.
fn bytes(value: Json<'_>) -> Option<Base64> {
    let Json::Text(text) = value else { return None };
    STANDARD.decode(text.as_bytes()).ok().map(Base64)
}

fn hash(value: Json<'_>) -> Option<Base64> {
    bytes(value).filter(|bytes| bytes.0.len() == size_of::<Hash>())
}

fn hashes(value: Json<'_>) -> Option<Vec<Base64>> {
    let Json::List(values) = value else { return None };
    values.into_iter().map(hash).collect()
}

fn object(value: Json<'_>) -> Option<Box<RawValue>> {
    matches!(value, Json::Object(_)).then(|| RawValue::from_string(value.write()).expect("it is JSON"))
}

fn consistency(value: Json<'_>) -> Option<Vec<Consistency>> {
    let Json::List(proofs) = value else { return None };
    let proof = |value| {
        let mut fields = Fields::of("a proof", value).ok()?;
        let proof =
            Consistency { from: fields.take("from", whole).ok()?, path: fields.take("path", hashes).ok()? };
        fields.end(proof).ok()
    };
    proofs.into_iter().map(proof).collect()
}

fn part(value: Json<'_>) -> Option<Part> {
    let mut fields = Fields::of("a part", value).ok()?;
    let part = match fields.optional("absent", text_of).ok()?.as_deref() {
        Some("redacted") => Part::Absent { absent: Absent::Redacted },
        Some("withheld") => Part::Absent { absent: Absent::Withheld },
        Some(_) => return None,
        None => {
            Part::Open { salt: fields.take("salt", bytes).ok()?, bytes: fields.take("bytes", bytes).ok()? }
        }
    };
    fields.end(part).ok()
}
