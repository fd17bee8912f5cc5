//! Ids of the events that the product records, and how an id from outside is told from one of them.
//!
//! No index says which ids are taken: it would cost every append a tenth. Ids that services choose are reserved beside
//! their events, and ids of ours are recognised: each is a UUIDv7 (RFC 9562) that ends in a MAC of its tenant and its other
//! bits. A service's id that verifies is one of ours, or could become one, and is refused; an id that does not verify can
//! never be one of ours.
//!
//! | bits | content |
//! | --- | --- |
//! | 48 | milliseconds since 1970, as UUIDv7 has them |
//! | 4 + 2 | version and variant |
//! | 42 | a counter: random at the first id of a millisecond, then one more for each id (RFC 9562, section 6.2, method 1) |
//! | 32 | the MAC |
//!
//! - Within a process no id comes twice: the counter only grows within a millisecond, and time never goes back.
//! - Two processes that make `n` ids each in one millisecond meet in a counter with a chance of about `n / 2^40`. They would
//!   have to do so for one tenant, whose appends are ordered by its head and rarely share a millisecond. The
//!   42 bits of the `uuid` crate's own counter are the same; it has 32 random bits behind them, which the MAC takes.
//! - A service's honest UUIDv7 verifies by chance once in 2^32 (four thousand million); then it is refused though it is
//!   free. A shorter MAC would raise that, a longer one would take bits from the counter. Other versions of UUID never
//!   verify.
//! - Correctness does not rest on the MAC being hard to forge: a forged id is refused, which hurts its forger alone. So
//!   32 bits are enough, and SipHash-2-4 (a keyed function for short inputs, some 20 ns) is used rather than HMAC-SHA-256
//!   (some 300 ns), which would be noticed beside the 450 ns of hashing an event.
//! - The tenant is part of the input, so that a service which copies events of one tenant to another may keep their ids.
//!
//! Events recorded before ids were made this way have random ids; a service that gives one of those again is not refused.

use std::hash::Hasher;
use std::sync::{Mutex, PoisonError};

use schemas::engine::{TenantId, clock};
use siphasher::sip::SipHasher24;
use uuid::Uuid;

use crate::DeploymentKey;

const MAC_BITS: u32 = 32;
const COUNTER_BITS: u32 = 42;
/// The part of the counter that stands below the variant.
const COUNTER_LOW_BITS: u32 = 30;
/// Random start of the counter: one bit less, so that it has room to grow.
const COUNTER_START_BITS: u32 = COUNTER_BITS - 1;

/// Makes ids of events and recognises them. One for each store.
pub(crate) struct EventIds {
    hasher: SipHasher24,
    last: Mutex<LastId>,
}

/// The id made last: its milliseconds and its counter.
#[derive(Debug, Clone, Copy, Default)]
struct LastId {
    millis: u64,
    counter: u64,
}

impl EventIds {
    pub(crate) fn new(key: &DeploymentKey) -> Self {
        let derived = key.mac("event-ids", &[]);
        let key = derived.first_chunk::<16>().expect("32 bytes hold 16");
        Self { hasher: SipHasher24::new_with_key(key), last: Mutex::default() }
    }

    /// A new id for an event of this tenant. Ids of one process grow.
    pub(crate) fn make(&self, tenant: TenantId) -> Uuid {
        let now = clock::now().timestamp_millis() as u64;
        let LastId { millis, counter } = {
            // Nothing panics while holding it.
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            *last = last.next(now);
            *last
        };
        let (high, low) = (counter >> COUNTER_LOW_BITS, counter & ((1 << COUNTER_LOW_BITS) - 1));
        let unsigned = u128::from(millis) << 80
            | 7 << 76
            | u128::from(high) << 64
            | 0b10 << 62
            | u128::from(low) << MAC_BITS;
        Uuid::from_u128(unsigned | u128::from(self.mac(tenant, unsigned)))
    }

    /// Whether an id is one that the product gives to events of this tenant.
    pub(crate) fn is_own(&self, tenant: TenantId, id: Uuid) -> bool {
        let bits = id.as_u128();
        let is_v7 = bits >> 76 & 0xf == 7 && bits >> 62 & 0b11 == 0b10;
        is_v7 && self.mac(tenant, bits & !u128::from(u32::MAX)) == bits as u32
    }

    fn mac(&self, tenant: TenantId, unsigned: u128) -> u32 {
        let mut hasher = self.hasher;
        hasher.write(tenant.0.as_bytes());
        hasher.write(&unsigned.to_be_bytes());
        hasher.finish() as u32
    }
}

impl LastId {
    fn next(self, now: u64) -> Self {
        if now > self.millis {
            return Self { millis: now, counter: rand::random::<u64>() >> (64 - COUNTER_START_BITS) };
        }
        // The clock shows the same millisecond, or went back.
        let counter = self.counter + 1;
        if counter >> COUNTER_BITS == 0 {
            Self { millis: self.millis, counter }
        } else {
            Self { millis: self.millis + 1, counter: 0 }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use schemas::engine::ids;

    use super::*;

    #[test]
    fn an_id_is_a_uuid_v7_of_now_that_is_recognised() {
        let (ids, tenant) = (EventIds::new(&DeploymentKey::generate()), TenantId(ids::new_id()));
        let before = clock::now().timestamp_millis() as u64;
        let id = ids.make(tenant);
        assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
        let (seconds, nanos) = id.get_timestamp().expect("a time").to_unix();
        assert!((before..=before + 60_000).contains(&(seconds * 1_000 + u64::from(nanos) / 1_000_000)));
        assert!(ids.is_own(tenant, id));
    }

    #[test]
    fn an_id_belongs_to_its_tenant_and_its_deployment_bit_by_bit() {
        let key = DeploymentKey::generate();
        let (own, tenant) = (EventIds::new(&key), TenantId(ids::new_id()));
        let id = own.make(tenant);
        assert!(EventIds::new(&key).is_own(tenant, id), "another process knows it");
        assert!(!own.is_own(TenantId(ids::new_id()), id));
        assert!(!EventIds::new(&DeploymentKey::generate()).is_own(tenant, id));
        for bit in 0..128 {
            assert!(!own.is_own(tenant, Uuid::from_u128(id.as_u128() ^ 1 << bit)), "bit {bit}");
        }
    }

    #[test]
    fn ids_from_outside_are_not_taken_for_own_ones() {
        let (own, tenant) = (EventIds::new(&DeploymentKey::generate()), TenantId(ids::new_id()));
        for _ in 0..10_000 {
            assert!(!own.is_own(tenant, ids::new_id()));
            assert!(!own.is_own(tenant, ids::random_id()));
        }
        for id in [Uuid::nil(), Uuid::max(), ids::derived_id(tenant.0, "x")] {
            assert!(!own.is_own(tenant, id));
        }
    }

    #[test]
    fn ids_of_one_process_grow_and_none_comes_twice() {
        let (own, tenant) = (EventIds::new(&DeploymentKey::generate()), TenantId(ids::new_id()));
        let made: Vec<Uuid> = (0..100_000).map(|_| own.make(tenant)).collect();
        assert!(made.is_sorted());
        assert_eq!(made.iter().collect::<HashSet<_>>().len(), made.len());
    }

    #[test]
    fn the_counter_outlasts_a_clock_that_goes_back_and_its_own_end() {
        let last = LastId { millis: 100, counter: 5 };
        assert_eq!((last.next(50).millis, last.next(50).counter), (100, 6));
        let full = LastId { millis: 100, counter: (1 << COUNTER_BITS) - 1 };
        assert_eq!((full.next(100).millis, full.next(100).counter), (101, 0));
        let fresh = last.next(101);
        assert!(fresh.millis == 101 && fresh.counter < 1 << COUNTER_START_BITS);
    }
}
