//! The event types of services. One stream holds all versions of an event type; its id is derived from the name without
//! the version.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::names::ExternalType;
use crate::engine::{Command, EventType, JsonText, Notes, ids};

/// The namespace UUID of the ids of event types.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f1c_7a52_0d7b_5c0e_9a53_6b1e_0f6d_2c41);

/// The id of the aggregate that holds all versions of an event type. `family` is the name without the version.
pub fn family_id(family: &str) -> Uuid {
    ids::derived_id(NAMESPACE, family)
}

crate::events! {
    /// What has happened to the versions of a fact.
    pub enum EventTypeEvent in "integration.event_type" {
        /// A version came into use.
        "registered.v1" => Registered(EventTypeRegistered),
        /// A version's schema accepts more than before.
        "widened.v1" => Widened(EventTypeWidened),
    }
}

/// A version came into use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventTypeRegistered {
    /// The full type, `ext.<service>.<aggregate>.<fact>.v<n>`.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// The JSON Schema (2020-12) of the data.
    pub schema: JsonText,
    /// What the fact means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<Notes>,
}

/// A version's schema accepts more than before, or is described otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields are those of EventTypeRegistered")]
pub struct EventTypeWidened {
    #[serde(rename = "type")]
    pub event_type: EventType,
    pub schema: JsonText,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<Notes>,
}

/// Brings a version of a fact into use, or changes the schema of one so that it accepts more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of EventTypeRegistered")]
pub struct RegisterEventType {
    #[serde(rename = "type")]
    pub event_type: ExternalType,
    pub schema: JsonText,
    #[serde(default)]
    pub description: Option<Notes>,
}

impl Command for RegisterEventType {
    const NAME: &'static str = "RegisterEventType";
}
