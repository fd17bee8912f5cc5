//! Keys as the stores list them: the subject, the state, the record.

use chrono::{DateTime, Utc};
use schemas::engine::{StreamName, TenantId};
use uuid::Uuid;

use crate::crypto::DataKey;

/// The subject of a key, with its tenant.
pub(crate) type Subject = (TenantId, Uuid);

/// The state of a subject's key.
#[derive(Debug, Clone)]
pub(crate) enum KeyState {
    Live(Uuid, DataKey),
    /// Fenced or destroyed: a tombstone exists.
    Erased,
    /// Neither a key nor a tombstone.
    Missing,
}

/// A subject whose key is destroyed or about to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    /// The tenant.
    pub tenant: TenantId,
    /// The subject.
    pub subject: Uuid,
    /// The id of its key, if it had one.
    pub key: Option<Uuid>,
    /// Whether the key is destroyed; otherwise it is only fenced.
    pub is_destroyed: bool,
}

/// A listed key, without the key bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// The tenant.
    pub tenant: TenantId,
    /// The subject.
    pub subject: Uuid,
    /// The id of the key.
    pub key: Uuid,
    /// The time of creation.
    pub created_at: DateTime<Utc>,
    /// The streams that may have segments sealed with it.
    pub streams: Vec<StreamName>,
}
