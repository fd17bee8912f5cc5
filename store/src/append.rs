//! Appending: what callers hand in, what they get back, and the queue in front of the workers that write.
//!
//! Concurrent appends of many tenants are coalesced into one flush (`worker`), checked in memory against what the last
//! look-ups proved (`plan`, `lookup`) and written by one statement gated on the compare-and-swap of the heads (`write`).

mod capacity;
mod lookup;
mod plan;
mod queue;
mod rejection;
mod scheduler;
mod worker;
mod write;

use bytes::Bytes;
use schemas::engine::{Event, EventType, LogId, Metadata, StreamName, TenantId, TenantSlug};
use schemas::identity::tenant::{Registration, Tier};
use uuid::Uuid;

use crate::{IdempotencyClaim, StoreError};

pub(crate) use queue::Appender;
pub(crate) use write::PAYLOAD_JSON;

/// Most bytes of one event with its headers: NATS refuses messages above 1 MiB, and an event that can never be
/// published must not exist.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;
/// Most events of one stream append.
pub const EVENTS_MAX: usize = 256;
/// Most bytes of one secret.
pub const SECRET_BYTES_MAX: usize = 16 * 1024;
/// Most reservations, releases and secrets of one stream append.
const SIDE_WRITES_MAX: usize = 256;
/// Most bytes of the name of a sort of reservation or secret.
const KIND_BYTES_MAX: usize = 64;
/// What names, ids and header names add to an event's payload and metadata, at most.
const HEADER_BYTES_ALLOWANCE: usize = 2 * 1024;

/// What the writer believes about the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedVersion {
    /// Nothing.
    Any,
    /// That it has no events yet.
    NoStream,
    /// That its last event has this version.
    Exact(u64),
}

/// An event about to be recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// The event's id where it came from outside; else one is made. No two events of a tenant share one: an id that is
    /// taken is refused.
    pub event_id: Option<Uuid>,
    /// Its type, with the schema version.
    pub event_type: EventType,
    /// JSON, stored exactly as it is.
    pub payload: Bytes,
    /// The keys that parts of the payload are sealed under.
    pub subject_keys: Vec<Uuid>,
}

impl NewEvent {
    /// An event of the vocabulary.
    pub fn encode<E: Event>(event: &E) -> Result<Self, serde_json::Error> {
        let event_type = EventType::parse(event.type_name()).expect("the vocabulary's type names are valid");
        Ok(Self { event_id: None, event_type, payload: event.encode()?.into(), subject_keys: Vec::new() })
    }
}

/// A value that at most one stream of the tenant holds, such as an e-mail address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// What sort of value, such as `email`.
    pub kind: &'static str,
    /// The value in its normalised form; only a keyed digest of it is stored.
    pub value: String,
}

/// A value that a stream holds, as it is stored: its sort and its keyed digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct ReservationDigest {
    pub kind: &'static str,
    pub digest: [u8; 32],
}

/// Something that belongs to a stream and must not stand in its events, such as a password hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// What sort of secret, such as `password`.
    pub kind: &'static str,
    /// Its value.
    pub value: Bytes,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({})", self.kind)
    }
}

/// A tenant whose log is opened in the transaction of the append that registers it.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of TenantRegistered")]
pub struct NewTenant {
    pub id: TenantId,
    pub slug: TenantSlug,
    pub name: String,
    pub tier: Tier,
    pub registration: Registration,
}

/// How a tenant stands from an append on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantStatusChange {
    /// Whose.
    pub tenant: TenantId,
    /// Whether it is on hold.
    pub suspended: bool,
}

/// Events for one stream and what is written with them: all of it commits, or none.
#[derive(Debug, Clone)]
pub struct StreamAppend {
    /// The stream.
    pub stream: StreamName,
    /// Checked against the stream's version at commit.
    pub expected: ExpectedVersion,
    /// The log that the writer's belief rests on, where it rests on any: refused when the tenant has another by now.
    pub log: Option<LogId>,
    /// At most [`EVENTS_MAX`] events; none where a command had no effect, and a claim keeps its receipt.
    pub events: Vec<NewEvent>,
    /// Recorded with each of them.
    pub metadata: Metadata,
    /// Leaves a receipt where given.
    pub claim: Option<IdempotencyClaim>,
    /// Taken with the append; refused when another stream holds one.
    pub reservations: Vec<Reservation>,
    /// Given back with the append.
    pub releases: Vec<Reservation>,
    /// Given back with the append where their values are not known any more: what [`TenantStore::reservations_of`] found.
    ///
    /// [`TenantStore::reservations_of`]: crate::TenantStore::reservations_of
    pub digest_releases: Vec<ReservationDigest>,
    /// Written, or overwritten, with the append.
    pub secrets: Vec<Secret>,
    /// A tenant to open with the append; for the log of the tenant `platform`.
    pub new_tenant: Option<NewTenant>,
    /// A tenant that stands otherwise with the append; for the log of the tenant `platform`.
    pub tenant_status: Option<TenantStatusChange>,
}

impl StreamAppend {
    /// Events and nothing else.
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

    /// The receipt of a command that had no effect at this version.
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

    /// What PostgreSQL or NATS would refuse is refused here, before it can spoil a flush. Returns the size in bytes.
    fn validate(&self, metadata: &[u8]) -> Result<usize, AppendError> {
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

/// What an append did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The stream appended to.
    pub stream: StreamName,
    /// The version of the last event appended; that of the stream where none was.
    pub version: u64,
    /// The log that the positions belong to.
    pub log_id: LogId,
    /// The position of the first event appended; that of the log's last event where none was.
    pub first_position: u64,
    /// The position of the last event appended; that of the log's last event where none was.
    pub position: u64,
    /// How many events.
    pub count: u32,
    /// Whether this is the receipt of an earlier append with the same command id.
    pub duplicate: bool,
}

/// Why an append did not happen.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The stream is not where the writer believed.
    #[error("the stream is at version {actual}")]
    VersionConflict {
        /// Where it is; 0 when it has no events.
        actual: u64,
    },
    /// The command id was used before for another command.
    #[error("the command id was used for another command")]
    CommandIdReused,
    /// Another event of the tenant has an id that was given for one of these.
    #[error("an event with the id {0} is recorded already")]
    EventIdTaken(Uuid),
    /// Another stream holds a value that this append wants.
    #[error("the {kind} is taken")]
    Reserved {
        /// What sort of value.
        kind: String,
        /// Who holds it.
        holder: StreamName,
    },
    /// An event is over the limit.
    #[error("an event of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its size with headers.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The append can never be stored.
    #[error("the append is invalid: {0}")]
    Invalid(String),
    /// It holds personal data of somebody who was erased.
    #[error("the person was erased")]
    SubjectErased,
    /// No such tenant.
    #[error("the tenant is unknown")]
    TenantUnknown,
    /// Too many appends are waiting; nothing was written.
    #[error("too many appends are waiting")]
    Overloaded,
    /// The database is away. Whether the append happened may be unknown; a repeat with the same command id is safe.
    #[error(transparent)]
    Unavailable(#[from] StoreError),
}
