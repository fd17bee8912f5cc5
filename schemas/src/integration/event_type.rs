//! The event types of services. One stream holds all versions of an event type; its id is derived from the name without
//! the version.

use uuid::Uuid;

use super::names::ExternalType;
use crate::engine::{EventType, JsonText, Notes, commands, events, ids};

/// The namespace UUID of the ids of event types.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f1c_7a52_0d7b_5c0e_9a53_6b1e_0f6d_2c41);

/// The id of the aggregate that holds all versions of an event type. `family` is the name without the version.
pub fn family_id(family: &str) -> Uuid {
    ids::derived_id(NAMESPACE, family)
}

/// What has happened to the versions of an event type.
#[events("integration.event_type")]
pub enum EventTypeEvent {
    /// A version came into use.
    #[event("registered.v1")]
    Registered {
        /// The full type, `ext.<service>.<aggregate>.<fact>.v<n>`.
        #[serde(rename = "type")]
        event_type: EventType,
        /// The JSON Schema (2020-12) of the data.
        schema: JsonText,
        /// What the fact means.
        description: Option<Notes>,
    },
    /// A version's schema accepts more than before, or is described otherwise.
    #[event("widened.v1")]
    Widened {
        /// The full type, `ext.<service>.<aggregate>.<fact>.v<n>`.
        #[serde(rename = "type")]
        event_type: EventType,
        /// The JSON Schema (2020-12) of the data.
        schema: JsonText,
        /// What the fact means.
        description: Option<Notes>,
    },
}

/// The commands of an event type.
#[commands]
pub enum EventTypeCommand {
    /// Brings a version of an event type into use, or changes its schema so that it accepts more.
    #[creates_or_changes]
    #[internal]
    RegisterEventType {
        #[serde(rename = "type")]
        event_type: ExternalType,
        schema: JsonText,
        description: Option<Notes>,
    },
}
