//! Room in the queue of an append lane, shared by the lane's tenants.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemas::engine::TenantId;

/// Appends and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Amount {
    appends: usize,
    bytes: usize,
}

/// A queue's room. A tenant that has appends waiting gets more room only while at least as much stays free as it holds:
/// alone it uses half of the queue, and a tenant that comes later finds room.
#[derive(Debug)]
pub(super) struct Room {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: Amount,
    held: HashMap<TenantId, Amount>,
}

/// The room of one append, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    tenant: TenantId,
    bytes: usize,
}

impl Room {
    pub(super) fn new(appends: usize, bytes: usize) -> Arc<Self> {
        let state = State { free: Amount { appends, bytes }, held: HashMap::new() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Room for an append of the tenant, unless the queue or the tenant's part of it is full.
    pub(super) fn take(self: &Arc<Self>, tenant: TenantId, bytes: usize) -> Option<Place> {
        let mut state = self.lock();
        let free = Amount {
            appends: state.free.appends.checked_sub(1)?,
            bytes: state.free.bytes.checked_sub(bytes)?,
        };
        let held = state.held.get(&tenant).copied().unwrap_or_default();
        let more = Amount { appends: held.appends + 1, bytes: held.bytes + bytes };
        if held != Amount::default() && (more.appends > free.appends || more.bytes > free.bytes) {
            return None;
        }
        state.free = free;
        state.held.insert(tenant, more);
        Some(Place { room: Arc::clone(self), tenant, bytes })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.room.lock();
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

    fn fill(room: &Arc<Room>, of: TenantId, bytes: usize) -> Vec<Place> {
        std::iter::from_fn(|| room.take(of, bytes)).collect()
    }

    #[test]
    fn one_tenant_fills_half_of_the_queue_and_leaves_room_to_those_that_come_later() {
        for (bytes, expected) in [(1, [8, 4, 2]), (16, [4, 2, 1])] {
            let room = Room::new(16, 128);
            let places: Vec<Vec<Place>> = (1..4).map(|number| fill(&room, tenant(number), bytes)).collect();
            assert_eq!([0, 1, 2].map(|index: usize| places[index].len()), expected, "{bytes} bytes each");
            drop(places);
            let state = room.lock();
            assert_eq!((state.free, state.held.len()), (Amount { appends: 16, bytes: 128 }, 0));
        }
    }

    #[test]
    fn the_largest_append_always_fits_an_empty_queue() {
        let room = Room::new(16, 128);
        let whole = room.take(tenant(1), 128);
        assert!(whole.is_some());
        assert!(room.take(tenant(2), 1).is_none(), "nothing is free");
    }
}
