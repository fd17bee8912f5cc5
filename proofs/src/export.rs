//! The export file: a history, or a part of it, that verifies without the product. One JSON object a line: a manifest,
//! the events in position order, among them the schemas of their types and keys, an end. `docs/audit-format.md` describes
//! it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::frame::Hash;
use crate::json::{Json, JsonError, Members};

/// The name of this form of the file.
pub const FORMAT: &str = "annals-export/v1";
/// The types of the events with which services register the schemas of their types, and replace them by wider ones.
pub const REGISTRATION_EVENT_TYPES: [&str; 2] =
    ["integration.event_type.registered.v1", "integration.event_type.widened.v1"];

/// The largest number in a file: a position is a 64-bit number with a sign in the store.
pub const INTEGER_MAX: u64 = i64::MAX as u64;

/// Bytes, in base64.
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

/// What the file holds, and what it is checked against.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The signed note.
    pub checkpoint: String,
    /// The perfect subtrees over the events before `from`, from left to right.
    pub before: Vec<Base64>,
    /// The perfect subtrees over the events behind `to`, from left to right, each as large as its place allows.
    pub after: Vec<Base64>,
    /// Proofs that earlier sizes were the beginning of this log.
    pub consistency: Vec<Consistency>,
    /// Who can read the keys that the file holds: a public key of the age format. Without it there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_to: Option<String>,
    /// When the file was made (RFC 3339).
    pub exported_at: String,
}

/// A proof that the log of `from` events was the beginning of the checkpoint's.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "said above")]
pub struct Consistency {
    pub from: u64,
    pub path: Vec<Base64>,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Vec<Base64>>,
}

/// Bytes with their salt, or why they are not here. Their leaf verifies either way.
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
    /// They were destroyed; nobody has them.
    Redacted,
    /// Whoever made the file left them out.
    Withheld,
}

/// The schema of a type's payloads. It stands before the first event of the type, once.
#[derive(Debug, Clone, Serialize)]
pub struct TypeSchema {
    /// The type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The JSON Schema (2020-12), an object.
    pub schema: Box<RawValue>,
    /// Of a type of the product's own: the version of the product that wrote the file. Nothing signed binds the schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Of a type that a service registered: the position of the event that holds the schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registered_at: Option<u64>,
}

/// What the payload of a registering event says.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are those of TypeSchema")]
pub struct Registration {
    pub event_type: String,
    pub schema: Box<RawValue>,
}

/// Keys for the sealed parts of the events behind it, up to the next such lines. Several in a row hold together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Keys {
    /// A file of the age format, for the manifest's `keys_to`.
    pub keys: Base64,
}

/// The last line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct End {
    /// How many events the file holds.
    pub events: u64,
}

/// A line behind the manifest. Its members tell which kind it is; there are no others.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "said above")]
pub enum Item {
    Event(Line),
    Schema(TypeSchema),
    Keys(Keys),
    End(End),
}

/// Why a line is not one of an export.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It is not JSON as exports have it.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// It has not the members of any kind of line.
    #[error("the line has not exactly the members of {0}")]
    Members(&'static str),
    /// A member is not of its type.
    #[error("{0} is not of its type")]
    Type(&'static str),
}

impl Manifest {
    /// Reads the first line.
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
    /// Reads a line behind the first.
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
    /// Reads a payload; `None` where it does not name a type and its schema.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let json = Json::parse(std::str::from_utf8(payload).ok()?).ok()?;
        let mut fields = Fields::of("a registration", json).ok()?;
        let event_type = fields.take("type", text_of).ok()?;
        Some(Self { event_type, schema: fields.take("schema", object).ok()? })
    }
}

/// The members of an object that have not been read yet.
struct Fields<'a> {
    what: &'static str,
    members: Members<'a>,
}

/// Reads a value that is of its type.
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

    /// What was read, where that was all.
    fn end<T>(self, read: T) -> Result<T, FormatError> {
        if self.members.is_empty() { Ok(read) } else { Err(FormatError::Members(self.what)) }
    }
}

fn text_of(value: Json<'_>) -> Option<String> {
    if let Json::Text(text) = value { Some(text.into_owned()) } else { None }
}

/// A whole number from 0 that a position can be, without a sign, a fraction or an exponent.
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

/// Standard base64: one text for each sequence of bytes.
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
