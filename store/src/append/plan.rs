//! Plans a flush from known heads, versions, receipts and reservations. Pure functions without I/O.

mod gaps;

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use proofs::{CommitmentKind, Frame, Hash, Salt, commitment, leaf_hash};
use schemas::engine::{LogId, StreamName, TenantId, ids};
use uuid::Uuid;

use super::error::AppendError;
use super::pending::{EVENT_ID_KIND, PendingAppend};
use super::receipt::Receipt;
use super::request::{ExpectedVersion, Reservation};
use crate::StoreError;
use crate::event_ids::EventIds;
use crate::stored_receipt::{KeyUse, StoredReceipt};

/// A reservation's key: kind and keyed digest.
pub(super) type ReservationKey = (&'static str, [u8; 32]);

/// The cached head of a tenant. A successful compare-and-swap of the head proves that it was current.
#[derive(Debug, Clone)]
pub(super) struct HeadView {
    pub(super) log_id: LogId,
    pub(super) position: u64,
    pub(super) recorded_at: DateTime<Utc>,
    /// Distinguishes this head from another one at the same position.
    pub(super) fence: Uuid,
}

/// The planner's input for one tenant: its head, stream versions and looked-up rows.
#[derive(Debug, Clone)]
pub(super) struct TenantView {
    pub(super) head: HeadView,
    /// The version of every stream that the flush touches; 0 for a stream without events.
    pub(super) versions: HashMap<StreamName, u64>,
    /// Streams whose version was looked up for this flush, not taken from the cache.
    pub(super) fresh: HashSet<StreamName>,
    /// Receipts found under the idempotency keys of the flush.
    pub(super) receipts: HashMap<Uuid, StoredReceipt>,
    /// Streams that hold reservations of the flush.
    pub(super) holders: HashMap<ReservationKey, StreamName>,
}

/// A row of `events`.
pub(super) struct EventRow {
    pub(super) tenant: TenantId,
    pub(super) position: u64,
    pub(super) version: u64,
    pub(super) event_id: Uuid,
    pub(super) schema_version: u32,
    pub(super) pending: usize,
    pub(super) event: usize,
    /// The salt of the payload, then the salt of the metadata; 16 bytes each.
    pub(super) salts: [u8; 32],
    pub(super) subject_keys: Vec<u8>,
    pub(super) leaf_hash: Hash,
}

/// The decision for one pending append.
#[derive(Debug)]
pub(super) enum Decision {
    /// Write it. It counts only if the compare-and-swap of its tenant succeeds.
    Write(Receipt),
    /// Answer without a write.
    /// `requires_swap`: the answer depends on cached data or on this flush, so it counts only if the swap succeeds.
    /// Otherwise it depends only on what was looked up for this flush.
    Answer { result: Result<Receipt, AppendError>, requires_swap: bool },
    /// Plan it in the next flush, because it depends on an append of this flush.
    Defer,
    /// The tenant's cache may be stale: drop it and plan again.
    Refresh,
}

/// A planned flush: one decision per pending append, and the rows to write.
pub(super) struct Plan {
    pub(super) decisions: Vec<Decision>,
    pub(super) rows: Vec<EventRow>,
    /// The time of planning, and the earliest `recorded_at` of its events.
    pub(super) planned_at: DateTime<Utc>,
    /// The head before and after the flush, for each tenant with writes.
    pub(super) moves: HashMap<TenantId, (HeadView, HeadView)>,
    /// The reservations per pending append (by index), as digests.
    pub(super) reservations: Vec<Vec<ReservationKey>>,
    pub(super) releases: Vec<Vec<ReservationKey>>,
}

/// Computes the keyed digest of a reservation, so that the table does not reveal the value.
pub(super) type DigestFn<'a> = &'a dyn Fn(TenantId, &'static str, &str) -> [u8; 32];

#[derive(Default)]
struct Overlay {
    versions: HashMap<StreamName, u64>,
    claims: HashSet<Uuid>,
    taken: HashMap<ReservationKey, StreamName>,
    released: HashSet<ReservationKey>,
}

/// Decides the appends of a flush in the order of arrival.
pub(super) fn plan(
    batch: &[PendingAppend],
    view: &HashMap<TenantId, TenantView>,
    now: DateTime<Utc>,
    event_ids: &EventIds,
    digest: DigestFn<'_>,
) -> Plan {
    let keys = |pending: &PendingAppend, reservations: &[Reservation]| -> Vec<ReservationKey> {
        let mut keys: Vec<_> =
            reservations.iter().map(|r| (r.kind, digest(pending.tenant, r.kind, &r.value))).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    };
    let reservations: Vec<_> = batch.iter().map(|p| keys(p, &p.append.reservations)).collect();
    let released = |pending: &PendingAppend| {
        let mut released = keys(pending, &pending.append.releases);
        released.extend(pending.append.digest_releases.iter().map(|held| (held.kind, held.digest)));
        released
    };
    let mut releases: Vec<_> = batch.iter().map(released).collect();
    // A value that one append both reserves and releases stays reserved.
    for (releases, reservations) in releases.iter_mut().zip(&reservations) {
        releases.retain(|key| !reservations.contains(key));
    }
    let mut plan = Plan {
        decisions: Vec::with_capacity(batch.len()),
        rows: Vec::new(),
        planned_at: now,
        moves: HashMap::new(),
        reservations,
        releases,
    };
    let mut overlays: HashMap<TenantId, Overlay> = HashMap::new();
    for (index, pending) in batch.iter().enumerate() {
        let decision = match view.get(&pending.tenant) {
            None => Decision::Answer { result: Err(AppendError::TenantUnknown), requires_swap: false },
            Some(view) => {
                let overlay = overlays.entry(pending.tenant).or_default();
                decide(&mut plan, index, pending, view, overlay, event_ids)
            }
        };
        plan.decisions.push(decision);
    }
    plan.refuse_gaps(batch);
    plan
}

fn decide(
    plan: &mut Plan,
    index: usize,
    pending: &PendingAppend,
    view: &TenantView,
    overlay: &mut Overlay,
    event_ids: &EventIds,
) -> Decision {
    let append = &pending.append;
    let settled = |result| Decision::Answer { result, requires_swap: false };
    if let Some(claim) = &append.claim {
        for key in claim.keys() {
            let stored = view.receipts.get(&key).filter(|stored| stored.is_of(claim, key));
            match stored.map(|stored| stored.key_use(claim)) {
                Some(KeyUse::Repeat(receipt)) => return settled(Ok(receipt)),
                Some(_) => return settled(Err(AppendError::CommandIdReused)),
                None => {}
            }
        }
        if overlay.claims.contains(&claim.key) {
            return Decision::Defer;
        }
    }
    if let Some(log) = append.log
        && log != view.head.log_id
    {
        // The cached head may be of an older log.
        if pending.attempts == 0 {
            return Decision::Refresh;
        }
        let error = StoreError::LogReplaced { current: view.head.log_id };
        return settled(Err(error.into()));
    }
    let cached_version = view.versions.get(&append.stream).copied().unwrap_or(0);
    let in_flush = overlay.versions.get(&append.stream).copied();
    let actual = in_flush.unwrap_or(cached_version);
    let conflict = match append.expected {
        ExpectedVersion::Any => false,
        ExpectedVersion::NoStream => actual > 0,
        ExpectedVersion::Exact(expected) => expected != actual,
    };
    if conflict {
        // Versions only grow. A writer that expects a higher version may know more than the cache.
        let ahead = matches!(append.expected, ExpectedVersion::Exact(expected) if expected > actual);
        if ahead && in_flush.is_none() && !view.fresh.contains(&append.stream) {
            return Decision::Refresh;
        }
        // The cached version is a lower bound, but it may be lower than the actual version.
        let requires_swap = in_flush.is_some() || !view.fresh.contains(&append.stream);
        return Decision::Answer { result: Err(AppendError::VersionConflict { actual }), requires_swap };
    }
    for key in &plan.reservations[index] {
        if overlay.released.contains(key) {
            return Decision::Defer;
        }
        let holder = view.holders.get(key).map(|holder| (holder, false));
        let holder = holder.or_else(|| overlay.taken.get(key).map(|holder| (holder, true)));
        if let Some((holder, requires_swap)) = holder
            && *holder != append.stream
        {
            let error = AppendError::Reserved { kind: key.0.to_owned(), holder: holder.clone() };
            return Decision::Answer { result: Err(error), requires_swap };
        }
    }
    // The stream already holds these values; a second row is not needed.
    plan.reservations[index].retain(|key| !view.holders.contains_key(key));
    for (id, digest) in &pending.event_ids {
        let key = (EVENT_ID_KIND, *digest);
        let in_flush = overlay.taken.contains_key(&key);
        if in_flush || view.holders.contains_key(&key) {
            return Decision::Answer { result: Err(AppendError::EventIdTaken(*id)), requires_swap: in_flush };
        }
        plan.reservations[index].push(key);
    }
    if plan.releases[index].iter().any(|key| overlay.taken.contains_key(key)) {
        return Decision::Defer;
    }
    write(plan, index, pending, view, overlay, actual, event_ids)
}

fn write(
    plan: &mut Plan,
    index: usize,
    pending: &PendingAppend,
    view: &TenantView,
    overlay: &mut Overlay,
    actual: u64,
    event_ids: &EventIds,
) -> Decision {
    let append = &pending.append;
    let before = &view.head;
    let (_, head) = plan.moves.entry(pending.tenant).or_insert_with(|| (before.clone(), before.clone()));
    if append.events.is_empty() {
        // The swap proves the version. A new fence makes other plans on the same head fail.
        head.fence = ids::random_id();
        overlay.claims.extend(append.claim.map(|claim| claim.key));
        return Decision::Write(Receipt {
            stream: append.stream.clone(),
            version: actual,
            log_id: head.log_id,
            first_position: head.position,
            position: head.position,
            count: 0,
            recorded_at: None,
            duplicate: false,
        });
    }
    let recorded_at = plan.planned_at.max(head.recorded_at);
    let first_position = head.position + 1;
    let mut rows = Vec::with_capacity(append.events.len());
    for (offset, event) in append.events.iter().enumerate() {
        let mut keys = event.subject_keys.clone();
        keys.sort_unstable();
        let event_id = event.event_id.unwrap_or_else(|| event_ids.make(pending.tenant));
        let salts: [u8; 32] = rand::random();
        let payload_salt: &Salt = salts.first_chunk().expect("32 bytes hold one salt");
        let metadata_salt: &Salt = salts.last_chunk().expect("32 bytes hold another");
        let version = actual + 1 + offset as u64;
        let frame = Frame {
            log_id: head.log_id.0,
            event_id,
            stream: append.stream.as_str(),
            version,
            event_type: event.event_type.as_str(),
            schema_version: event.event_type.schema_version(),
            recorded_at: recorded_at.timestamp_micros(),
            payload_encoding: super::request::PAYLOAD_JSON,
            payload_commitment: commitment(CommitmentKind::Payload, payload_salt, &event.payload),
            metadata_commitment: commitment(CommitmentKind::Metadata, metadata_salt, &pending.metadata),
            subject_keys: &keys,
        };
        let entry = match frame.encode() {
            Ok(entry) => entry,
            Err(error) => {
                return Decision::Answer {
                    result: Err(AppendError::Invalid(error.to_string())),
                    requires_swap: false,
                };
            }
        };
        rows.push(EventRow {
            tenant: pending.tenant,
            position: first_position + offset as u64,
            version,
            event_id,
            schema_version: event.event_type.schema_version(),
            pending: index,
            event: offset,
            salts,
            subject_keys: keys.iter().flat_map(|key| *key.as_bytes()).collect(),
            leaf_hash: leaf_hash(&entry),
        });
    }
    let count = append.events.len() as u64;
    head.position += count;
    head.recorded_at = recorded_at;
    head.fence = rows.last().expect("an append has events").event_id;
    plan.rows.append(&mut rows);
    overlay.versions.insert(append.stream.clone(), actual + count);
    overlay.claims.extend(append.claim.map(|claim| claim.key));
    overlay.released.extend(plan.releases[index].iter().copied());
    for key in &plan.reservations[index] {
        overlay.taken.insert(*key, append.stream.clone());
    }
    Decision::Write(Receipt {
        stream: append.stream.clone(),
        version: actual + count,
        log_id: head.log_id,
        first_position,
        position: head.position,
        count: count as u32,
        recorded_at: Some(recorded_at),
        duplicate: false,
    })
}

#[cfg(test)]
mod tests;
