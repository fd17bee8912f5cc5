//! A cache with a limit in bytes that is shared fairly: a key that fills it evicts its own entries first.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

/// Approximate bytes of an entry beyond its value.
const ENTRY_BYTES: usize = 256;

/// A cache of the values of several keys, such as tenants. Its limit is in bytes.
///
/// When it is full, it evicts entries of the key that uses the most bytes, the least recently used first.
/// So the entries of a key stay as long as the key uses no more than its share.
pub struct FairCache<K, I, V> {
    bytes_max: usize,
    entries: Mutex<Entries<K, I, V>>,
}

struct Entries<K, I, V> {
    by_key: HashMap<K, OfKey<I, V>>,
    /// The keys by the bytes that they use.
    by_bytes: BTreeSet<(usize, K)>,
    bytes: usize,
}

/// The entries of one key.
struct OfKey<I, V> {
    values: LruCache<I, (V, usize)>,
    bytes: usize,
}

impl<K: Copy + Ord + Hash, I: Hash + Eq, V: Clone> FairCache<K, I, V> {
    /// A cache of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        let entries = Entries { by_key: HashMap::new(), by_bytes: BTreeSet::new(), bytes: 0 };
        Self { bytes_max, entries: Mutex::new(entries) }
    }

    /// The value, which counts as used.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: K, id: &Q) -> Option<V>
    where
        I: Borrow<Q>,
    {
        let mut entries = self.entries();
        entries.by_key.get_mut(&key)?.values.get(id).map(|(value, _)| value.clone())
    }

    /// The value, or a new one of `bytes` bytes.
    pub fn get_or_insert_with(&self, key: K, id: I, bytes: usize, value: impl FnOnce() -> V) -> V {
        let mut entries = self.entries();
        if let Some((found, _)) = entries.by_key.get_mut(&key).and_then(|of_key| of_key.values.get(&id)) {
            return found.clone();
        }
        let value = value();
        entries.insert(key, id, value.clone(), bytes.saturating_add(ENTRY_BYTES), self.bytes_max);
        value
    }

    /// Adds or replaces a value of `bytes` bytes. A value that is larger than the cache is not kept.
    pub fn insert(&self, key: K, id: I, value: V, bytes: usize) {
        self.entries().insert(key, id, value, bytes.saturating_add(ENTRY_BYTES), self.bytes_max);
    }

    /// Removes a value.
    pub fn remove<Q: Hash + Eq + ?Sized>(&self, key: K, id: &Q)
    where
        I: Borrow<Q>,
    {
        let mut entries = self.entries();
        let removed = entries.by_key.get_mut(&key).and_then(|of_key| of_key.values.pop(id));
        if let Some((_, bytes)) = removed {
            entries.subtract(key, bytes);
        }
    }

    /// The bytes in use.
    pub fn bytes(&self) -> usize {
        self.entries().bytes
    }

    fn entries(&self) -> MutexGuard<'_, Entries<K, I, V>> {
        // Code that holds the lock does not panic.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Ord + Hash, I: Hash + Eq, V> Entries<K, I, V> {
    fn insert(&mut self, key: K, id: I, value: V, bytes: usize, bytes_max: usize) {
        if bytes > bytes_max {
            let older = self.by_key.get_mut(&key).and_then(|of_key| of_key.values.pop(&id));
            if let Some((_, bytes)) = older {
                self.subtract(key, bytes);
            }
            return;
        }
        let of_key =
            self.by_key.entry(key).or_insert_with(|| OfKey { values: LruCache::unbounded(), bytes: 0 });
        let replaced = of_key.values.put(id, (value, bytes)).map_or(0, |(_, bytes)| bytes);
        let before = of_key.bytes;
        of_key.bytes = before - replaced + bytes;
        self.by_bytes.remove(&(before, key));
        self.by_bytes.insert((of_key.bytes, key));
        self.bytes = self.bytes - replaced + bytes;
        while self.bytes > bytes_max {
            let Some((_, largest)) = self.by_bytes.last().copied() else { return };
            let evicted = self.by_key.get_mut(&largest).and_then(|of_key| of_key.values.pop_lru());
            match evicted {
                Some((_, (_, bytes))) => self.subtract(largest, bytes),
                None => return,
            }
        }
    }

    /// Subtracts the bytes of an entry that was taken out. A key without entries is forgotten.
    fn subtract(&mut self, key: K, bytes: usize) {
        self.bytes -= bytes;
        let Some(of_key) = self.by_key.get_mut(&key) else { return };
        self.by_bytes.remove(&(of_key.bytes, key));
        of_key.bytes -= bytes;
        if of_key.values.is_empty() {
            self.by_key.remove(&key);
        } else {
            self.by_bytes.insert((of_key.bytes, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: usize = 1024 - ENTRY_BYTES;

    #[test]
    fn a_key_that_fills_the_cache_evicts_its_own_entries() {
        let cache = FairCache::new(8 * 1024);
        cache.insert('a', 1, "small", KIB);
        for id in 0..100 {
            cache.insert('b', id, "large", KIB);
        }
        assert_eq!(cache.get('a', &1), Some("small"));
        assert_eq!((cache.get('b', &92), cache.get('b', &93)), (None, Some("large")));
        assert_eq!(cache.bytes(), 8 * 1024);
    }

    #[test]
    fn the_least_recently_used_entry_is_evicted_first() {
        let cache = FairCache::new(2 * 1024);
        cache.insert('a', 1, (), KIB);
        cache.insert('a', 2, (), KIB);
        assert!(cache.get('a', &1).is_some());
        cache.insert('a', 3, (), KIB);
        assert!(cache.get('a', &1).is_some() && cache.get('a', &2).is_none());
    }

    #[test]
    fn a_value_that_is_larger_than_the_cache_is_not_kept() {
        let cache = FairCache::new(1024);
        cache.insert('a', 1, "small", 1);
        cache.insert('a', 2, "large", 1024);
        assert_eq!((cache.get('a', &1), cache.get('a', &2)), (Some("small"), None));
        cache.insert('a', 1, "large", 1024);
        assert_eq!((cache.get('a', &1), cache.bytes()), (None, 0));
    }

    #[test]
    fn a_value_is_made_once() {
        let cache = FairCache::new(8 * 1024);
        assert_eq!(cache.get_or_insert_with('a', 1, 1, || "first"), "first");
        assert_eq!(cache.get_or_insert_with('a', 1, 1, || "second"), "first");
    }

    proptest! {
        #[test]
        fn bytes_stay_within_the_limit_and_are_those_of_the_entries(
            operations in proptest::collection::vec((0_u8..4, 0_u8..8, 0_usize..2_000, any::<bool>()), 1..200)
        ) {
            let cache = FairCache::new(4 * 1024);
            for (key, id, bytes, removes) in operations {
                if removes {
                    cache.remove(key, &id);
                } else {
                    cache.insert(key, id, bytes, bytes);
                }
                prop_assert!(cache.bytes() <= 4 * 1024);
                let entries = cache.entries();
                let of_entries: usize = entries
                    .by_key
                    .values()
                    .flat_map(|of_key| of_key.values.iter())
                    .map(|(_, (value, _))| value + ENTRY_BYTES)
                    .sum();
                prop_assert_eq!(entries.bytes, of_entries);
                prop_assert_eq!(entries.by_bytes.len(), entries.by_key.len());
            }
        }
    }
}
