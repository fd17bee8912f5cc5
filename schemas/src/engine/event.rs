//! The trait of all event enums, and the macro that writes one.

use cqrs_es::DomainEvent;

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

/// The events of one aggregate: an enum with one variant for each payload struct, written by
/// [`events!`](crate::events).
pub trait Event: DomainEvent {
    /// `<context>.<aggregate>`.
    const CATEGORY: &'static str;
    /// Every type that this enum decodes.
    const TYPES: &'static [&'static str];

    /// The JSON Schema of each type's payload.
    fn schemas() -> Vec<(&'static str, schemars::Schema)>;
    /// The full type name, such as `crm.customer.registered.v1`.
    fn type_name(&self) -> &'static str;
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

/// Writes an event enum: its variants, their type names, and the codec of their payloads.
#[macro_export]
macro_rules! events {
    (
        $(#[$doc:meta])*
        pub enum $name:ident in $category:literal {
            $( $(#[$variant_doc:meta])* $fact:literal => $variant:ident($payload:ty), )+
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(tag = "type", content = "data")]
        pub enum $name {
            $( $(#[$variant_doc])* #[serde(rename = $fact)] $variant($payload), )+
        }

        impl cqrs_es::DomainEvent for $name {
            fn event_type(&self) -> String {
                $crate::engine::Event::type_name(self).to_owned()
            }

            fn event_version(&self) -> String {
                $crate::engine::Event::type_name(self).rsplit_once(".v").map_or("1", |(_, v)| v).to_owned()
            }
        }

        impl $crate::engine::Event for $name {
            const CATEGORY: &'static str = $category;
            const TYPES: &'static [&'static str] = &[$( concat!($category, ".", $fact) ),+];

            fn schemas() -> Vec<(&'static str, schemars::Schema)> {
                vec![$( (concat!($category, ".", $fact), $crate::engine::json_schema::schema_of::<$payload>()) ),+]
            }

            fn type_name(&self) -> &'static str {
                match self {
                    $( Self::$variant(_) => concat!($category, ".", $fact), )+
                }
            }

            fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
                match self {
                    $( Self::$variant(data) => serde_json::to_vec(data), )+
                }
            }

            fn decode(event_type: &str, payload: &[u8]) -> Result<Option<Self>, $crate::engine::DecodeError> {
                let decoded = match event_type {
                    $( concat!($category, ".", $fact) => serde_json::from_slice(payload).map(Self::$variant), )+
                    _ => return Ok(None),
                };
                decoded.map(Some).map_err(|source| $crate::engine::DecodeError {
                    event_type: event_type.to_owned(),
                    source,
                })
            }
        }
    };
}
