//! Cached keys, each until its lease ends.
//! A thread drops expired keys, so that they also leave the memory of an idle process.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use schemas::engine::StreamName;
use uuid::Uuid;

use crate::KeyringError;
use crate::crypto::DataKey;
use crate::key::Subject;

/// Maximum cached keys. At the maximum all are dropped, and loaded again when needed.
const CACHE_CAPACITY: usize = 100_000;
/// Maximum recorded streams per cached key. At the maximum they are dropped, and recorded in the store again.
const STREAMS_PER_KEY_MAX: usize = 64;
/// Minimum time between two sweeps, so that keys with similar expiry are dropped together.
const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(20);

/// The cached keys of a process.
pub(crate) struct Cache(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    keys: HashMap<Subject, CachedKey>,
    /// The expiry of leases, earliest first. A key that was loaded several times has several entries.
    ends: BinaryHeap<Reverse<(Instant, Uuid, Uuid)>>,
    is_closed: bool,
}

struct CachedKey {
    key: Uuid,
    data_key: DataKey,
    until: Instant,
    /// The streams that the store has recorded for the subject.
    streams: HashSet<StreamName>,
}

impl Cache {
    /// Starts an empty cache with its sweep thread. The thread ends with the cache.
    pub(crate) fn start() -> Result<Self, KeyringError> {
        let shared = Arc::new(Shared::default());
        let swept = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("keys-sweep".to_owned())
            .spawn(move || swept.sweep())
            .map_err(|error| KeyringError::Unavailable(error.to_string()))?;
        Ok(Self(shared))
    }

    /// The cached key of a subject. With `stream`, only if the store has recorded that stream for the subject.
    pub(crate) fn get(&self, subject: Subject, stream: Option<&StreamName>) -> Option<(Uuid, DataKey)> {
        let state = self.0.lock();
        let cached = state.keys.get(&subject).filter(|cached| cached.until > Instant::now())?;
        let is_noted = stream.is_none_or(|stream| cached.streams.contains(stream));
        is_noted.then(|| (cached.key, cached.data_key.clone()))
    }

    /// Caches a key until its lease ends.
    pub(crate) fn insert(
        &self,
        subject: Subject,
        key: Uuid,
        data_key: DataKey,
        until: Instant,
        stream: Option<&StreamName>,
    ) {
        let mut state = self.0.lock();
        if state.ends.len() >= 2 * CACHE_CAPACITY || state.keys.len() >= CACHE_CAPACITY {
            state.keys.clear();
            state.ends.clear();
        }
        let is_first = state.ends.peek().is_none_or(|Reverse((end, _, _))| until < *end);
        state.ends.push(Reverse((until, subject.0.0, subject.1)));
        let cached = state.keys.entry(subject).or_insert_with(|| CachedKey {
            key,
            data_key: data_key.clone(),
            until,
            streams: HashSet::new(),
        });
        if cached.key != key {
            // Another key of the subject: the store was restored to another state.
            *cached = CachedKey { key, data_key, until, streams: HashSet::new() };
        }
        cached.until = cached.until.max(until);
        if cached.streams.len() >= STREAMS_PER_KEY_MAX {
            cached.streams.clear();
        }
        cached.streams.extend(stream.cloned());
        drop(state);
        if is_first {
            self.0.changed.notify_one();
        }
    }

    /// Drops the cached key of a subject.
    pub(crate) fn remove(&self, subject: Subject) {
        self.0.lock().keys.remove(&subject);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().keys.len()
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_closed = true;
        state.keys.clear();
        drop(state);
        self.0.changed.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sweep(&self) {
        let mut state = self.lock();
        while !state.is_closed {
            let now = Instant::now();
            state.drop_ended(now);
            state = match state.ends.peek() {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Reverse((end, _, _))) => {
                    let pause = end.saturating_duration_since(now).max(SWEEP_INTERVAL_MIN);
                    let waited = self.changed.wait_timeout(state, pause);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl State {
    fn drop_ended(&mut self, now: Instant) {
        while let Some(Reverse((end, tenant, subject))) = self.ends.peek().copied()
            && end <= now
        {
            self.ends.pop();
            let subject = (schemas::engine::TenantId(tenant), subject);
            if self.keys.get(&subject).is_some_and(|cached| cached.until <= now) {
                self.keys.remove(&subject);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::engine::TenantId;

    use super::*;

    #[test]
    fn a_key_is_dropped_when_its_lease_ends_and_not_before() {
        let cache = Cache::start().expect("starts");
        let subject = |id| (TenantId(Uuid::from_u128(5)), Uuid::from_u128(id));
        let begun = Instant::now();
        let lease = Duration::from_millis(300);
        for id in 1..=10 {
            cache.insert(subject(id), Uuid::from_u128(100 + id), DataKey::generate(), begun + lease, None);
        }
        // A key that is loaded again gets a new lease.
        cache.insert(subject(1), Uuid::from_u128(101), DataKey::generate(), begun + lease * 200, None);
        assert!(cache.len() == 10 || begun.elapsed() >= lease);
        while cache.len() > 1 {
            assert!(begun.elapsed() < lease * 100, "the thread sweeps");
            std::thread::yield_now();
        }
        assert!(begun.elapsed() >= lease);
        assert!(cache.get(subject(1), None).is_some() && cache.get(subject(2), None).is_none());
    }
}
