//! Identifiers and the one place where new ones are made.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A tenant's internal id. In public a tenant is named by its slug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantId(pub Uuid);

/// The id of one incarnation of a tenant's log. A restored or replaced log carries another one, so that
/// positions of the two are never mistaken for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct LogId(pub Uuid);

/// The id of the reserved tenant `platform`, whose log holds the platform's own facts.
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

/// A new random id (UUIDv4), for what must not tell when it was made.
#[expect(clippy::disallowed_methods, reason = "this is the one home of new ids")]
pub fn random_id() -> Uuid {
    Uuid::new_v4()
}

/// An id derived from another one and a label (UUIDv5): the same inputs give the same id, so that a step repeated
/// after a crash repeats under its first name.
pub fn derived_id(parent: Uuid, label: &str) -> Uuid {
    Uuid::new_v5(&parent, label.as_bytes())
}
