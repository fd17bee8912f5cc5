//! Ids of recorded events.
//!
//! An index of all ids would cost every append a tenth of its speed. Instead:
//!
//! - Ids that services choose are reserved beside their events.
//! - Ids of the product are UUIDv7 (RFC 9562) that end in a MAC of the tenant and the other bits.
//!
//! A service's id with a valid MAC is or could become an id of the product, so it is rejected.
//! An id without a valid MAC can never be an id of the product.
//!
//! | bits | content |
//! | --- | --- |
//! | 48 | milliseconds since 1970, as UUIDv7 has them |
//! | 4 + 2 | version and variant |
//! | 42 | a counter: starts at random in each millisecond, then grows by one (RFC 9562, section 6.2, method 1) |
//! | 32 | the MAC |
//!
//! - Ids of one process are unique: the counter only grows within a millisecond, and time never decreases.
//! - Two processes with `n` ids each in one millisecond collide with a probability of about `n / 2^40`.
//!   Both would have to write to one tenant, and appends of a tenant rarely share a millisecond.
//!   The `uuid` crate also has a counter of 42 bits, followed by 32 random bits; here the MAC takes their place.
//! - A valid UUIDv7 of a service has a matching MAC by chance once in 2^32. It is then rejected although it is free.
//!   A shorter MAC would increase that rate; a longer one would take bits from the counter.
//!   Other versions of UUID never match.
//! - The MAC need not resist forgery: a forged id is rejected, which only affects its sender. So 32 bits are enough.
//!   SipHash-2-4 takes about 20 ns. HMAC-SHA-256 takes about 300 ns, which matters beside 450 ns to hash an event.
//! - The tenant is part of the input, so a service that copies events to another tenant may keep their ids.
//!
//! Older events have random ids. A service that gives one of those again is not rejected.

use std::hash::Hasher;
use std::sync::{Mutex, PoisonError};

use schemas::engine::{TenantId, clock};
use siphasher::sip::SipHasher24;
use uuid::Uuid;

use crate::DeploymentKey;

const MAC_BITS: u32 = 32;
const COUNTER_BITS: u32 = 42;
/// The bits of the counter after the variant.
const COUNTER_LOW_BITS: u32 = 30;
/// The bits of the random start: one less, so that the counter can grow.
const COUNTER_START_BITS: u32 = COUNTER_BITS - 1;

/// Generates ids of events, and recognises them. One per store.
pub(crate) struct EventIds {
    hasher: SipHasher24,
    last: Mutex<LastId>,
}

/// The last generated id: milliseconds since 1970, and counter.
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

    /// Generates an id for an event of this tenant. Ids of one process increase.
    pub(crate) fn make(&self, tenant: TenantId) -> Uuid {
        let now = clock::now().timestamp_millis() as u64;
        let LastId { millis, counter } = {
            // Code that holds the lock does not panic.
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

    /// Whether an id is one that the product generates for events of this tenant.
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
        // Same millisecond, or the clock went back.
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
