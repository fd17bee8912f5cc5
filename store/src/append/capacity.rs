//! Capacity of the queue of an append worker, shared by the tenants of the worker.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemas::engine::TenantId;

/// A number of appends and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct QueueUsage {
    appends: usize,
    bytes: usize,
}

/// The free capacity of a queue and the usage per tenant.
///
/// A tenant with queued appends gets more capacity only while the free capacity is at least as large as its usage.
/// So a tenant alone can use half of the queue, and a later tenant still finds capacity.
#[derive(Debug)]
pub(super) struct QueueCapacity {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: QueueUsage,
    held: HashMap<TenantId, QueueUsage>,
}

/// The capacity used by one append; dropping it returns the capacity.
#[derive(Debug)]
pub(super) struct QueuePermit {
    capacity: Arc<QueueCapacity>,
    tenant: TenantId,
    bytes: usize,
}

impl QueueCapacity {
    pub(super) fn new(appends: usize, bytes: usize) -> Arc<Self> {
        let state = State { free: QueueUsage { appends, bytes }, held: HashMap::new() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Reserves capacity for one append. Returns `None` when the queue or the tenant's share of it is full.
    pub(super) fn try_acquire(self: &Arc<Self>, tenant: TenantId, bytes: usize) -> Option<QueuePermit> {
        let mut state = self.lock();
        let free = QueueUsage {
            appends: state.free.appends.checked_sub(1)?,
            bytes: state.free.bytes.checked_sub(bytes)?,
        };
        let held = state.held.get(&tenant).copied().unwrap_or_default();
        let more = QueueUsage { appends: held.appends + 1, bytes: held.bytes + bytes };
        if held != QueueUsage::default() && (more.appends > free.appends || more.bytes > free.bytes) {
            return None;
        }
        state.free = free;
        state.held.insert(tenant, more);
        Some(QueuePermit { capacity: Arc::clone(self), tenant, bytes })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Code that holds the lock does not panic, so a poisoned lock is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for QueuePermit {
    fn drop(&mut self) {
        let mut state = self.capacity.lock();
        state.free.appends += 1;
        state.free.bytes += self.bytes;
        let Some(held) = state.held.get_mut(&self.tenant) else { return };
        held.appends -= 1;
        held.bytes -= self.bytes;
        if held.appends == 0 {
            state.held.remove(&self.tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn tenant(number: u128) -> TenantId {
        TenantId(Uuid::from_u128(number))
    }

    fn fill(capacity: &Arc<QueueCapacity>, of: TenantId, bytes: usize) -> Vec<QueuePermit> {
        std::iter::from_fn(|| capacity.try_acquire(of, bytes)).collect()
    }

    #[test]
    fn one_tenant_fills_half_of_the_queue_and_leaves_room_to_those_that_come_later() {
        for (bytes, expected) in [(1, [8, 4, 2]), (16, [4, 2, 1])] {
            let capacity = QueueCapacity::new(16, 128);
            let permits: Vec<Vec<QueuePermit>> =
                (1..4).map(|number| fill(&capacity, tenant(number), bytes)).collect();
            assert_eq!([0, 1, 2].map(|index: usize| permits[index].len()), expected, "{bytes} bytes each");
            drop(permits);
            let state = capacity.lock();
            assert_eq!((state.free, state.held.len()), (QueueUsage { appends: 16, bytes: 128 }, 0));
        }
    }

    #[test]
    fn the_largest_append_always_fits_an_empty_queue() {
        let capacity = QueueCapacity::new(16, 128);
        let whole = capacity.try_acquire(tenant(1), 128);
        assert!(whole.is_some());
        assert!(capacity.try_acquire(tenant(2), 1).is_none(), "nothing is free");
    }
}
