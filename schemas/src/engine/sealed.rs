//! Personal data in payloads. In the log it is a sealed segment, `{"$sealed": {...}}`, encrypted with a key of its
//! subject.
//! In memory it is [`Sealed`]. The crate `keyring` converts between the two.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// The member of a stored payload that holds a sealed segment.
pub const SEALED: &str = "$sealed";
/// The member with the content of a segment, before encryption and after decryption.
pub const OPEN: &str = "$open";
/// The member in place of a segment that cannot be decrypted, because its key was destroyed.
pub const ERASED: &str = "$erased";

/// Personal data of one person (the *subject*), or the mark that the subject was erased. Rules and folds must handle
/// both.
/// In a payload it is flattened: its fields are next to the other fields.
///
/// An encrypted segment does not decode. So a reader without the key fails, and never takes the subject for erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sealed<T> {
    /// The data are readable.
    #[serde(rename = "$open")]
    Open {
        /// The subject; `None` means the id of the event's stream.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subject: Option<Uuid>,
        /// The personal data.
        value: T,
    },
    /// The subject's key was destroyed.
    #[serde(rename = "$erased")]
    Erased {
        /// The subject.
        subject: Uuid,
    },
}

impl<T> Sealed<T> {
    /// Personal data whose subject is the id of the event's stream.
    pub fn own(value: T) -> Self {
        Self::Open { subject: None, value }
    }

    /// Personal data of a subject; `None` means the id of the event's stream.
    pub fn of(subject: Option<Uuid>, value: T) -> Self {
        Self::Open { subject, value }
    }

    /// The data, unless it was erased.
    pub fn open(self) -> Option<T> {
        match self {
            Self::Open { value, .. } => Some(value),
            Self::Erased { .. } => None,
        }
    }

    /// The data, unless it was erased.
    pub fn as_open(&self) -> Option<&T> {
        match self {
            Self::Open { value, .. } => Some(value),
            Self::Erased { .. } => None,
        }
    }

    /// The subject, unless it was erased. `own` is the id of the event's stream.
    pub fn open_subject(&self, own: Uuid) -> Option<Uuid> {
        match self {
            Self::Open { subject, .. } => Some(subject.unwrap_or(own)),
            Self::Erased { .. } => None,
        }
    }
}

/// A sealed segment as it is stored: AES-256-GCM over the JSON of what is sealed. The associated data is
/// `annals-sealed/v1`, a zero byte, and the ids of event, subject and key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealedSegment {
    /// `A256GCM`.
    pub alg: String,
    /// Whom it is about.
    pub subject: Uuid,
    /// The key that it is sealed under, which is one of the event's subject keys.
    pub key: Uuid,
    /// 12 bytes in standard base64.
    pub nonce: String,
    /// Ciphertext and tag in standard base64.
    pub ct: String,
}

/// The schema for readers: the fields themselves, or an encrypted segment, or the mark of an erasure.
impl<T: JsonSchema> JsonSchema for Sealed<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Sealed_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let open = generator.subschema_for::<T>();
        let segment = generator.subschema_for::<SealedSegment>();
        json_schema!({
            "anyOf": [
                open,
                {
                    "description": "For readers without the scope `pii:read`.",
                    "type": "object",
                    "properties": { SEALED: segment },
                    "required": [SEALED]
                },
                {
                    "description": "The subject was erased.",
                    "type": "object",
                    "properties": { ERASED: {
                        "type": "object",
                        "properties": {"subject": {"type": "string", "format": "uuid"}},
                        "required": ["subject"]
                    } },
                    "required": [ERASED]
                }
            ]
        })
    }

    fn inline_schema() -> bool {
        true
    }
}

/// The first member in a document whose name is reserved for sealed segments.
pub fn reserved(document: &Value) -> Option<&'static str> {
    match document {
        Value::Array(items) => items.iter().find_map(reserved),
        Value::Object(fields) => {
            let own = [SEALED, OPEN, ERASED].into_iter().find(|name| fields.contains_key(*name));
            own.or_else(|| fields.values().find_map(reserved))
        }
        _ => None,
    }
}

/// Converts a decrypted payload into the form for readers: the fields of each segment move into the object that
/// contains it.
pub fn spread(payload: &mut Value) {
    match payload {
        Value::Array(items) => items.iter_mut().for_each(spread),
        Value::Object(fields) => {
            fields.values_mut().for_each(spread);
            let Some(Value::Object(mut open)) = fields.remove(OPEN) else { return };
            match open.remove("value") {
                Some(Value::Object(value)) if !fields.is_empty() || !value.is_empty() => fields.extend(value),
                Some(value) => *payload = value,
                None => {}
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Person {
        name: String,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Payload {
        #[serde(flatten)]
        person: Sealed<Person>,
        roles: Vec<String>,
    }

    #[test]
    fn a_payload_decodes_opened_or_erased_and_never_sealed() {
        let subject = Uuid::from_u128(7);
        let open = json!({"$open": {"subject": subject, "value": {"name": "Ada"}}, "roles": []});
        let payload: Payload = serde_json::from_value(open.clone()).expect("decodes");
        assert_eq!(payload.person.as_open().map(|person| person.name.as_str()), Some("Ada"));
        assert_eq!(serde_json::to_value(&payload).expect("encodes"), open);

        let erased = json!({"$erased": {"subject": subject}, "roles": []});
        let payload: Payload = serde_json::from_value(erased).expect("decodes");
        assert_eq!(payload.person, Sealed::Erased { subject });

        let sealed = json!({"$sealed": {"alg": "A256GCM"}, "roles": []});
        assert!(serde_json::from_value::<Payload>(sealed).is_err());
        assert!(serde_json::from_value::<Payload>(json!({"name": "Ada", "roles": []})).is_err());
    }

    #[test]
    fn what_is_opened_is_spread_among_its_neighbours() {
        let mut payload = json!({
            "roles": [1], "$open": {"subject": "s", "value": {"name": "Ada"}},
            "steps": [{"command": {"$open": {"value": {"a": 1}}}}, {"command": {"$erased": {"subject": "s"}}}],
        });
        spread(&mut payload);
        let expected = json!({
            "roles": [1], "name": "Ada",
            "steps": [{"command": {"a": 1}}, {"command": {"$erased": {"subject": "s"}}}],
        });
        assert_eq!(payload, expected);
    }
}
