//! The trait of a set of events, written by `#[events]`.

use chrono::{DateTime, Utc};
use cqrs_es::DomainEvent;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

/// A payload that does not match its type.
#[derive(Debug, thiserror::Error)]
#[error("payload of {event_type} does not decode")]
pub struct DecodeError {
    /// The type of the payload.
    pub event_type: String,
    /// What is wrong with it.
    #[source]
    pub source: serde_json::Error,
}

/// Where and when an event was recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// The id of the aggregate.
    pub id: Uuid,
    /// The version of the aggregate after the event.
    pub version: u64,
    /// The time of recording.
    pub time: DateTime<Utc>,
}

/// The events of one aggregate. In serde's form an event is `{"type": ..., "data": ...}`; the log stores type and
/// payload separately.
pub trait Event: DomainEvent + 'static {
    /// `<context>.<aggregate>`.
    const CATEGORY: &'static str;
    /// Every type that this enum encodes.
    const TYPES: &'static [&'static str];
    /// Older versions that it also decodes. None of them is recorded any more.
    const OLDER_TYPES: &'static [&'static str];
    /// Whether a payload has personal data.
    const HAS_PERSONAL_DATA: bool;

    /// Whether it decodes the type. A type of its category that it does not know is of a newer version of the program.
    fn knows(event_type: &str) -> bool {
        Self::TYPES.contains(&event_type) || Self::OLDER_TYPES.contains(&event_type)
    }
    /// The JSON Schema of each type's payload, those of older versions included.
    fn schemas() -> Vec<(&'static str, Schema)>;
    /// The full type name, such as `crm.customer.registered.v1`.
    fn type_name(&self) -> &'static str;
    /// The subjects of the event's personal data, unless they were erased. `own` is the id of the stream.
    fn open_subjects(&self, own: Uuid) -> Vec<Uuid>;
    /// The payload as JSON, without the type.
    ///
    /// # Errors
    /// The payload cannot be serialised.
    fn encode(&self) -> Result<Vec<u8>, serde_json::Error>;
    /// Decodes a payload; `None` if the type is not of this aggregate.
    ///
    /// # Errors
    /// [`DecodeError`] if the payload does not match the type.
    fn decode(event_type: &str, payload: &[u8]) -> Result<Option<Self>, DecodeError>;
}

/// Decodes a payload of this type and encodes it again.
type Renew = fn(&str, &[u8]) -> Result<Option<Vec<u8>>, DecodeError>;

/// The events of one aggregate whose type is known at run time only: what the registry of events holds.
#[derive(Clone, Copy)]
pub struct AnyEvents {
    /// `<context>.<aggregate>`.
    pub category: &'static str,
    /// The types that are recorded.
    pub types: &'static [&'static str],
    /// Older versions of them.
    pub older_types: &'static [&'static str],
    /// Whether a payload has personal data.
    pub has_personal_data: bool,
    knows: fn(&str) -> bool,
    /// The JSON Schema of each type's payload, those of older versions included.
    pub schemas: fn() -> Vec<(&'static str, Schema)>,
    /// Decodes a payload and encodes it again, as the newest version of its type. `None` if the type is unknown.
    pub renew: Renew,
}

impl AnyEvents {
    /// The events `E`.
    pub const fn of<E: Event>() -> Self {
        Self {
            category: E::CATEGORY,
            types: E::TYPES,
            older_types: E::OLDER_TYPES,
            has_personal_data: E::HAS_PERSONAL_DATA,
            knows: E::knows,
            schemas: E::schemas,
            renew: |event_type, payload| {
                let Some(event) = E::decode(event_type, payload)? else { return Ok(None) };
                let failed = |source| DecodeError { event_type: event_type.to_owned(), source };
                event.encode().map(Some).map_err(failed)
            },
        }
    }

    /// Whether it decodes the type.
    pub fn knows(&self, event_type: &str) -> bool {
        (self.knows)(event_type)
    }
}

// `#[events]` calls the functions below in the crate of the events. So serde's code is compiled once, and not in every
// crate that names the events.

/// See [`Event::encode`].
///
/// # Errors
/// The payload cannot be serialised.
pub fn encode<E: Event>(event: &E) -> Result<Vec<u8>, serde_json::Error> {
    let mut whole = serde_json::to_vec(event)?;
    whole.pop();
    whole.drain(..envelope_start(event.type_name()).len());
    Ok(whole)
}

/// See [`Event::decode`]. `older` is the result for a payload of an older version.
///
/// # Errors
/// [`DecodeError`] if the payload does not match the type.
pub fn decode<E: Event>(
    event_type: &str,
    payload: &[u8],
    older: Option<Result<E, serde_json::Error>>,
) -> Result<Option<E>, DecodeError> {
    let decoded = match older {
        Some(decoded) => decoded,
        None if !E::TYPES.contains(&event_type) => return Ok(None),
        None => serde_json::from_slice(&[envelope_start(event_type).as_bytes(), payload, b"}"].concat()),
    };
    decoded.map(Some).map_err(|source| DecodeError { event_type: event_type.to_owned(), source })
}

/// Decodes the payload of an older version and converts it.
///
/// # Errors
/// The payload does not match the older version.
pub fn upcast<P: DeserializeOwned, E: From<P>>(payload: &[u8]) -> Result<E, serde_json::Error> {
    serde_json::from_slice::<P>(payload).map(E::from)
}

/// See [`Event::schemas`]. `titles` are the titles in the order of the types, `older` the schemas of older versions.
pub fn schemas<E: Event + JsonSchema>(
    titles: &[&str],
    older: Vec<(&'static str, Schema)>,
) -> Vec<(&'static str, Schema)> {
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    settings.inline_subschemas = true;
    let whole = settings.into_generator().into_root_schema_for::<E>().to_value();
    let variants = whole["oneOf"].as_array().cloned().unwrap_or_default();
    let payload = |(variant, title): (&Value, &&str)| {
        let mut payload = variant["properties"]["data"].clone();
        payload["title"] = (*title).into();
        payload["description"] = variant["description"].clone();
        payload["$schema"] = whole["$schema"].clone();
        Schema::try_from(payload).expect("a payload's schema is an object")
    };
    E::TYPES.iter().copied().zip(variants.iter().zip(titles).map(payload)).chain(older).collect()
}

fn envelope_start(type_name: &str) -> String {
    format!(r#"{{"type":"{type_name}","data":"#)
}

/// The version at the end of a type name.
pub fn version_of(type_name: &str) -> &str {
    type_name.rsplit_once(".v").map_or("1", |(_, version)| version)
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::engine::{Name, events};

    /// The first payload: a plain name.
    #[derive(Serialize, Deserialize, JsonSchema)]
    struct NamedV1 {
        name: String,
    }

    /// The second payload: a checked name.
    #[derive(Serialize, Deserialize, JsonSchema)]
    struct NamedV2 {
        name: Name,
    }

    /// What has happened to a ship.
    #[events("port.ship")]
    enum ShipEvent {
        /// The ship has names.
        #[event("named.v3", from = NamedV1, from = NamedV2)]
        Named {
            /// The names.
            names: Vec<Name>,
        },
    }

    impl From<NamedV1> for ShipEvent {
        fn from(NamedV1 { name }: NamedV1) -> Self {
            Self::Named { names: Name::parse(&name).into_iter().collect() }
        }
    }

    impl From<NamedV2> for ShipEvent {
        fn from(NamedV2 { name }: NamedV2) -> Self {
            Self::Named { names: vec![name] }
        }
    }

    #[test]
    fn every_version_is_decoded_and_only_the_newest_is_recorded() {
        let argo = ShipEvent::Named { names: vec![Name::parse("Argo").expect("a valid name")] };
        let payloads = [
            ("port.ship.named.v1", r#"{"name":"Argo"}"#),
            ("port.ship.named.v2", r#"{"name":"Argo"}"#),
            ("port.ship.named.v3", r#"{"names":["Argo"]}"#),
        ];
        for (event_type, payload) in payloads {
            let decoded = ShipEvent::decode(event_type, payload.as_bytes()).expect("decodes");
            assert_eq!(decoded.as_ref(), Some(&argo), "{event_type}");
            assert!(ShipEvent::knows(event_type), "{event_type}");
        }
        assert_eq!(argo.type_name(), "port.ship.named.v3");
        assert_eq!(argo.encode().expect("encodes"), br#"{"names":["Argo"]}"#);
        assert!(ShipEvent::decode("port.ship.named.v1", br#"{"names":["Argo"]}"#).is_err());
        assert!(!ShipEvent::knows("port.ship.named.v4"));
        assert_eq!(ShipEvent::decode("port.ship.named.v4", b"{}").expect("is no error"), None);
    }

    #[test]
    fn every_version_has_a_described_schema() {
        let schemas = ShipEvent::schemas();
        let names: Vec<&str> = schemas.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["port.ship.named.v3", "port.ship.named.v1", "port.ship.named.v2"]);
        for (name, schema) in schemas {
            let schema = schema.to_value();
            assert!(schema["description"].is_string() && schema["title"].is_string(), "{name}: {schema}");
        }
    }
}
