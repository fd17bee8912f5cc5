//! Identifiers, and the only place that generates new ones.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A tenant's internal id. Public interfaces use the slug instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantId(pub Uuid);

/// The id of one incarnation of a tenant's log. A restored or replaced log carries another one, so that
/// positions of the two are never mistaken for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct LogId(pub Uuid);

/// The id of the reserved tenant `platform`, whose log holds the events of the platform itself.
pub const PLATFORM: TenantId = TenantId(Uuid::from_u128(0x0000_0000_0000_7000_8000_0000_0000_0001));

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A new time-ordered id (UUIDv7, RFC 9562).
#[expect(clippy::disallowed_methods, reason = "this is the one home of new ids")]
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

/// A new random id (UUIDv4), for ids that must not reveal their time of creation.
#[expect(clippy::disallowed_methods, reason = "this is the one home of new ids")]
pub fn random_id() -> Uuid {
    Uuid::new_v4()
}

/// An id derived from another id and a label (UUIDv5). Equal inputs give the same id, so that a step repeated after a
/// crash has the id of its first attempt.
pub fn derived_id(parent: Uuid, label: &str) -> Uuid {
    Uuid::new_v5(&parent, label.as_bytes())
}
