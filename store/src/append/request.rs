//! What can be appended: events of one stream, with the rows that belong to them.

use bytes::Bytes;
use schemas::engine::{Event, EventType, LogId, Metadata, StreamName, TenantId, TenantSlug};
use schemas::identity::tenant::{Registration, Tier};
use uuid::Uuid;

use super::error::AppendError;
use crate::stored_receipt::IdempotencyClaim;

/// The payload encoding of the log: JSON in UTF-8.
pub(crate) const PAYLOAD_JSON: u8 = 1;
/// Maximum size of one event with its headers, in bytes.
/// NATS rejects messages above 1 MiB, and every stored event must be publishable.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;
/// Maximum events per stream append.
pub const EVENTS_MAX: usize = 256;
/// Maximum size of one secret, in bytes.
pub const SECRET_BYTES_MAX: usize = 16 * 1024;
/// Maximum reservations, releases and secrets per stream append, together.
const SIDE_WRITES_MAX: usize = 256;
/// Maximum length of the kind of a reservation or secret, in bytes.
const KIND_BYTES_MAX: usize = 64;
/// Maximum bytes that names, ids and header names add to the payload and metadata of an event.
const HEADER_BYTES_ALLOWANCE: usize = 2 * 1024;

/// The version that the writer expects the stream to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedVersion {
    /// Any version: no check.
    Any,
    /// The stream has no events.
    NoStream,
    /// The last event of the stream has this version.
    Exact(u64),
}

/// An event to record.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// An id given by the client; `None` to generate one.
    /// Ids are unique per tenant: an id that is already used is rejected.
    pub event_id: Option<Uuid>,
    /// The event type with its schema version.
    pub event_type: EventType,
    /// JSON in UTF-8, stored byte for byte.
    pub payload: Bytes,
    /// The encryption keys of the sealed segments in the payload; at most 255.
    pub subject_keys: Vec<Uuid>,
}

impl NewEvent {
    /// Encodes an event of the schemas.
    ///
    /// # Errors
    /// The error of serde when the payload cannot be serialised.
    pub fn encode<E: Event>(event: &E) -> Result<Self, serde_json::Error> {
        let event_type = EventType::parse(event.type_name()).expect("the vocabulary's type names are valid");
        Ok(Self { event_id: None, event_type, payload: event.encode()?.into(), subject_keys: Vec::new() })
    }
}

/// A value that at most one stream of the tenant holds, such as an e-mail address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The kind of value, such as `email`.
    pub kind: &'static str,
    /// The value in its normalised form; only a keyed digest of it is stored.
    pub value: String,
}

/// A value that a stream holds, as it is stored: its kind and its keyed digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReservationDigest {
    /// The kind of value, such as `email`.
    pub kind: &'static str,
    /// The keyed digest of the value.
    pub digest: [u8; 32],
}

/// A value that belongs to a stream but not to its events, such as a password hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// The kind of secret, such as `password`.
    pub kind: &'static str,
    /// The value; at most [`SECRET_BYTES_MAX`] bytes.
    pub value: Bytes,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({})", self.kind)
    }
}

/// A tenant to create in the same transaction as the append that registers it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTenant {
    /// The id of the new tenant.
    pub id: TenantId,
    /// Its slug, unique in the deployment.
    pub slug: TenantSlug,
    /// Its display name.
    pub name: String,
    /// Its tier.
    pub tier: Tier,
    /// How users can register: openly, by invitation or not at all.
    pub registration: Registration,
}

/// A change of a tenant's status, stored with an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantStatusChange {
    /// The tenant to change.
    pub tenant: TenantId,
    /// Whether the tenant is suspended from now on.
    pub suspended: bool,
}

/// Events of one stream with the rows to write beside them. Either everything commits or nothing.
#[derive(Debug, Clone)]
pub struct StreamAppend {
    /// The stream to append to.
    pub stream: StreamName,
    /// Compared with the stream's version at commit.
    pub expected: ExpectedVersion,
    /// The log that the writer read, if any. The append is rejected when the tenant has another log now.
    pub log: Option<LogId>,
    /// At most [`EVENTS_MAX`] events. Without events, `claim` is required and only a receipt is stored.
    pub events: Vec<NewEvent>,
    /// Stored with each event.
    pub metadata: Metadata,
    /// Stores a receipt under this key, if given.
    pub claim: Option<IdempotencyClaim>,
    /// Reserved with the append. Rejected when another stream holds one of them.
    pub reservations: Vec<Reservation>,
    /// Released with the append.
    pub releases: Vec<Reservation>,
    /// Released with the append by digest, for values that are no longer known.
    /// [`TenantStore::reservations_of`] finds the digests.
    ///
    /// [`TenantStore::reservations_of`]: crate::TenantStore::reservations_of
    pub digest_releases: Vec<ReservationDigest>,
    /// Inserted or overwritten with the append.
    pub secrets: Vec<Secret>,
    /// A tenant to create with the append; only in the log of the tenant `platform`.
    pub new_tenant: Option<NewTenant>,
    /// A status change to store with the append; only in the log of the tenant `platform`.
    pub tenant_status: Option<TenantStatusChange>,
}

impl StreamAppend {
    /// An append of events only.
    pub fn new(
        stream: StreamName,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
        metadata: Metadata,
    ) -> Self {
        Self {
            stream,
            expected,
            log: None,
            events,
            metadata,
            claim: None,
            reservations: Vec::new(),
            releases: Vec::new(),
            digest_releases: Vec::new(),
            secrets: Vec::new(),
            new_tenant: None,
            tenant_status: None,
        }
    }

    /// An append without events: it stores the receipt of a command that had no effect at this version.
    pub fn without_effect(
        stream: StreamName,
        expected: ExpectedVersion,
        claim: IdempotencyClaim,
        metadata: Metadata,
    ) -> Self {
        Self { claim: Some(claim), ..Self::new(stream, expected, Vec::new(), metadata) }
    }

    fn has_side_writes(&self) -> bool {
        let lists = [
            self.reservations.is_empty(),
            self.releases.is_empty(),
            self.digest_releases.is_empty(),
            self.secrets.is_empty(),
        ];
        lists.contains(&false) || self.new_tenant.is_some() || self.tenant_status.is_some()
    }

    /// Rejects what PostgreSQL or NATS would reject later, because that would fail a whole flush.
    /// Returns the size of the append in bytes.
    pub(super) fn validate(&self, metadata: &[u8]) -> Result<usize, AppendError> {
        if self.events.len() > EVENTS_MAX {
            return Err(AppendError::Invalid(format!("an append has at most {EVENTS_MAX} events")));
        }
        if self.events.is_empty() && (self.claim.is_none() || self.has_side_writes()) {
            return Err(AppendError::Invalid(
                "an append without events keeps a receipt and nothing else".to_owned(),
            ));
        }
        let mut total = 0;
        for event in &self.events {
            let bytes = event.payload.len() + metadata.len() + HEADER_BYTES_ALLOWANCE;
            if bytes > EVENT_BYTES_MAX {
                return Err(AppendError::TooLarge { bytes, limit: EVENT_BYTES_MAX });
            }
            if serde_json::from_slice::<serde::de::IgnoredAny>(&event.payload).is_err() {
                return Err(AppendError::Invalid("a payload is JSON".to_owned()));
            }
            if event.subject_keys.len() > 255 {
                return Err(AppendError::Invalid("an event has at most 255 subject keys".to_owned()));
            }
            total += bytes + 16 * event.subject_keys.len();
        }
        for secret in &self.secrets {
            if secret.value.len() > SECRET_BYTES_MAX {
                return Err(AppendError::TooLarge { bytes: secret.value.len(), limit: SECRET_BYTES_MAX });
            }
            total += secret.value.len();
        }
        let kinds = self.reservations.iter().chain(&self.releases).map(|reservation| reservation.kind);
        let mut kinds = kinds.chain(self.secrets.iter().map(|secret| secret.kind));
        if kinds.any(|kind| kind.is_empty() || kind.len() > KIND_BYTES_MAX || kind.contains('\0')) {
            return Err(AppendError::Invalid("a kind is a short word".to_owned()));
        }
        let side_writes =
            self.reservations.len() + self.releases.len() + self.digest_releases.len() + self.secrets.len();
        if side_writes > SIDE_WRITES_MAX {
            return Err(AppendError::Invalid(format!("an append carries at most {SIDE_WRITES_MAX} values")));
        }
        Ok(total)
    }
}
