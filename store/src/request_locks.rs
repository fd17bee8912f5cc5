//! The locks of idempotency keys in use in this process: one request per key at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemas::engine::TenantId;
use uuid::Uuid;

/// Maximum requests that wait for one key in one process; beyond, a request fails as overloaded.
const WAITERS_PER_KEY_MAX: usize = 64;

pub(crate) type KeyLock = Arc<tokio::sync::Mutex<()>>;

/// The locks of keys in use in this process.
#[derive(Default)]
pub(crate) struct RequestLocks(Mutex<HashMap<(TenantId, Uuid), KeyLock>>);

impl RequestLocks {
    fn keys(&self) -> MutexGuard<'_, HashMap<(TenantId, Uuid), KeyLock>> {
        // Code that holds the lock does not panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock of a key, or `None` when too many requests wait for it.
    pub(crate) fn of(&self, key: (TenantId, Uuid)) -> Option<KeyLock> {
        let mut keys = self.keys();
        let lock = keys.entry(key).or_default();
        // The map and the holder have one reference each.
        (Arc::strong_count(lock) < WAITERS_PER_KEY_MAX + 2).then(|| Arc::clone(lock))
    }

    pub(crate) fn release(&self, key: (TenantId, Uuid), lock: KeyLock) {
        let mut keys = self.keys();
        drop(lock);
        if keys.get(&key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            keys.remove(&key);
        }
    }
}
