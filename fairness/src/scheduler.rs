//! The scheduling rule: selects the request that gets the next permit.

use std::collections::{HashMap, VecDeque};

use crate::Key;

/// The limits of a shared resource. A value of 0 counts as 1, except for `reserved`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The number of permits.
    pub permits: usize,
    /// Maximum permits per key.
    pub permits_per_key: usize,
    /// Permits reserved for keys that hold none; less than `permits`.
    pub reserved: usize,
    /// Maximum waiting requests per key.
    pub waiting: usize,
    /// Maximum waiting requests of all keys.
    pub waiting_total: usize,
}

impl Limits {
    /// Limits for short work with few permits: half of them per key, and one reserved if there are several.
    pub fn half_per_key(permits: usize, waiting: usize) -> Self {
        let permits = permits.max(1);
        Self {
            permits,
            permits_per_key: permits.div_ceil(2),
            reserved: usize::from(permits > 1),
            waiting,
            waiting_total: waiting.saturating_mul(64),
        }
    }

    fn effective(self) -> Self {
        let permits = self.permits.max(1);
        Self {
            permits,
            permits_per_key: self.permits_per_key.clamp(1, permits),
            reserved: self.reserved.min(permits - 1),
            waiting: self.waiting.max(1),
            waiting_total: self.waiting_total.max(1),
        }
    }
}

/// Requests by key, and the held permits per key. A key without both uses no memory.
#[derive(Debug)]
pub struct FairScheduler<K, T> {
    limits: Limits,
    free: usize,
    waiting: usize,
    keys: HashMap<K, State<T>>,
    /// The keys with waiting requests, each once, in the order of service.
    order: VecDeque<K>,
}

#[derive(Debug)]
struct State<T> {
    held: usize,
    waiting: VecDeque<T>,
}

impl<K: Key, T> FairScheduler<K, T> {
    /// Creates a scheduler with all permits free.
    pub fn new(limits: Limits) -> Self {
        let limits = limits.effective();
        Self { limits, free: limits.permits, waiting: 0, keys: HashMap::new(), order: VecDeque::new() }
    }

    /// Queues a request, or returns it as the error when the queue of the key or of all keys is full.
    ///
    /// # Errors
    /// The request, when [`Limits::waiting`] or [`Limits::waiting_total`] requests already wait.
    pub fn push(&mut self, key: K, request: T) -> Result<(), T> {
        let state =
            self.keys.entry(key.clone()).or_insert_with(|| State { held: 0, waiting: VecDeque::new() });
        if state.waiting.len() >= self.limits.waiting || self.waiting >= self.limits.waiting_total {
            self.remove_idle(&key);
            return Err(request);
        }
        if state.waiting.is_empty() {
            self.order.push_back(key);
        }
        state.waiting.push_back(request);
        self.waiting += 1;
        Ok(())
    }

    /// Selects the next request that gets a permit; the key holds the permit from then on.
    ///
    /// Every skipped key holds a permit, so the search checks at most as many keys as there are permits.
    #[expect(
        clippy::should_implement_trait,
        reason = "no iterator: what comes next depends on what is given back"
    )]
    pub fn next(&mut self) -> Option<(K, T)> {
        for _ in 0..self.order.len() {
            if self.free == 0 {
                return None;
            }
            let key = self.order.pop_front()?;
            let state = self.keys.get_mut(&key)?;
            let is_open = self.free > self.limits.reserved || state.held == 0;
            if state.held >= self.limits.permits_per_key || !is_open {
                self.order.push_back(key);
                continue;
            }
            let request = state.waiting.pop_front()?;
            state.held += 1;
            self.free -= 1;
            self.waiting -= 1;
            if !state.waiting.is_empty() {
                self.order.push_back(key.clone());
            }
            return Some((key, request));
        }
        None
    }

    /// Releases a permit of the key.
    pub fn release(&mut self, key: &K) {
        let Some(state) = self.keys.get_mut(key).filter(|state| state.held > 0) else { return };
        state.held -= 1;
        self.free += 1;
        self.remove_idle(key);
    }

    /// Removes the waiting requests of the key that match.
    pub fn remove(&mut self, key: &K, matches: impl Fn(&T) -> bool) {
        let Some(state) = self.keys.get_mut(key).filter(|state| !state.waiting.is_empty()) else { return };
        let before = state.waiting.len();
        state.waiting.retain(|request| !matches(request));
        self.waiting -= before - state.waiting.len();
        if state.waiting.is_empty() {
            self.order.retain(|other| other != key);
            self.remove_idle(key);
        }
    }

    /// The number of permits that the key holds.
    pub fn held(&self, key: &K) -> usize {
        self.keys.get(key).map_or(0, |state| state.held)
    }

    /// The number of waiting requests of all keys.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The number of keys with requests or permits.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    fn remove_idle(&mut self, key: &K) {
        if self.keys.get(key).is_some_and(|state| state.held == 0 && state.waiting.is_empty()) {
            self.keys.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(permits: usize, permits_per_key: usize, reserved: usize) -> Limits {
        Limits { permits, permits_per_key, reserved, waiting: 100, waiting_total: 1_000 }
    }

    fn served(scheduler: &mut FairScheduler<char, u32>) -> String {
        std::iter::from_fn(|| scheduler.next().map(|(key, _)| key)).collect()
    }

    #[test]
    fn keys_are_served_in_turn_however_many_requests_each_has() {
        let mut scheduler = FairScheduler::new(limits(6, 6, 0));
        for (key, requests) in [('a', 50), ('b', 2), ('c', 1)] {
            (0..requests).for_each(|request| scheduler.push(key, request).expect("room"));
        }
        assert_eq!(served(&mut scheduler), "abcaba");
        scheduler.push('d', 0).expect("room");
        scheduler.release(&'a');
        scheduler.release(&'b');
        assert_eq!(served(&mut scheduler), "ad");
    }

    #[test]
    fn the_requests_of_a_key_keep_their_order() {
        let mut scheduler = FairScheduler::new(limits(3, 3, 0));
        (0..3).for_each(|request| scheduler.push('a', request).expect("room"));
        let order: Vec<u32> = std::iter::from_fn(|| scheduler.next().map(|(_, request)| request)).collect();
        assert_eq!(order, [0, 1, 2]);
    }

    #[test]
    fn a_key_keeps_to_its_share_and_the_reserve_is_for_keys_without_a_permit() {
        let mut scheduler = FairScheduler::new(limits(8, 4, 2));
        for key in ['a', 'b'] {
            (0..10).for_each(|request| scheduler.push(key, request).expect("room"));
        }
        assert_eq!(served(&mut scheduler), "ababab", "two stay in reserve");
        scheduler.push('c', 0).expect("room");
        scheduler.push('c', 1).expect("room");
        scheduler.push('d', 0).expect("room");
        assert_eq!(served(&mut scheduler), "cd", "one for each newcomer");
        let mut alone = FairScheduler::new(limits(8, 4, 2));
        (0..10).for_each(|request| alone.push('a', request).expect("room"));
        assert_eq!(served(&mut alone), "aaaa");
    }

    #[test]
    fn waiting_is_bounded_by_key_and_in_all() {
        let mut scheduler = FairScheduler::new(Limits {
            permits: 1,
            permits_per_key: 1,
            reserved: 0,
            waiting: 2,
            waiting_total: 3,
        });
        assert_eq!(
            [scheduler.push('a', 0), scheduler.push('a', 1), scheduler.push('a', 2)],
            [Ok(()), Ok(()), Err(2)]
        );
        assert_eq!([scheduler.push('b', 0), scheduler.push('c', 1)], [Ok(()), Err(1)]);
        assert_eq!(scheduler.keys(), 2, "a refused key leaves nothing behind");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(u8),
        Next,
        Release(u8),
        Remove(u8, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0u8..6).prop_map(Step::Push),
            3 => Just(Step::Next),
            2 => (0u8..6).prop_map(Step::Release),
            1 => ((0u8..6), (0u32..40)).prop_map(|(key, request)| Step::Remove(key, request)),
        ]
    }

    proptest! {
        #[test]
        fn whatever_comes_the_bounds_hold_and_nobody_who_may_be_served_is_passed_twice(
            steps in prop::collection::vec(step(), 1..200),
            permits in 1usize..6, permits_per_key in 1usize..6, reserved in 0usize..4, waiting in 1usize..5,
        ) {
            let limits = Limits { permits, permits_per_key, reserved, waiting, waiting_total: 12 };
            let mut scheduler = FairScheduler::new(limits);
            let limits = limits.effective();
            let mut held: HashMap<u8, usize> = HashMap::new();
            let mut queued: HashMap<u8, VecDeque<u32>> = HashMap::new();
            // For each waiting key: the keys that were served before it since it could be served, with their counts.
            let mut passed: HashMap<u8, HashMap<u8, usize>> = HashMap::new();
            for (number, step) in steps.into_iter().enumerate() {
                let number = number as u32;
                match step {
                    Step::Push(key) => {
                        let total: usize = queued.values().map(VecDeque::len).sum();
                        let own = queued.entry(key).or_default();
                        let fits = own.len() < limits.waiting && total < limits.waiting_total;
                        prop_assert_eq!(scheduler.push(key, number).is_ok(), fits);
                        if fits {
                            own.push_back(number);
                        }
                    }
                    Step::Next => {
                        let free = limits.permits - held.values().sum::<usize>();
                        let may = |key: &u8| {
                            let own = held.get(key).copied().unwrap_or(0);
                            free > 0 && own < limits.permits_per_key && (free > limits.reserved || own == 0)
                        };
                        let eligible: Vec<u8> = queued
                            .iter()
                            .filter(|(key, own)| !own.is_empty() && may(key))
                            .map(|(key, _)| *key)
                            .collect();
                        match scheduler.next() {
                            None => prop_assert!(eligible.is_empty()),
                            Some((key, request)) => {
                                prop_assert!(eligible.contains(&key));
                                prop_assert_eq!(queued.get_mut(&key).and_then(VecDeque::pop_front), Some(request));
                                *held.entry(key).or_default() += 1;
                                passed.remove(&key);
                                for other in queued.iter().filter(|(_, own)| !own.is_empty()).map(|(other, _)| *other) {
                                    if other == key {
                                        continue;
                                    }
                                    let by = passed.entry(other).or_default();
                                    if !eligible.contains(&other) {
                                        // It cannot be served now, so its count starts again.
                                        by.clear();
                                        continue;
                                    }
                                    let times = by.entry(key).or_default();
                                    *times += 1;
                                    prop_assert!(*times <= 2, "{other} waits while {key} is served again and again");
                                }
                            }
                        }
                    }
                    Step::Release(key) => {
                        if let Some(own) = held.get_mut(&key).filter(|own| **own > 0) {
                            *own -= 1;
                        }
                        scheduler.release(&key);
                    }
                    Step::Remove(key, request) => {
                        scheduler.remove(&key, |waiting| *waiting == request);
                        if let Some(own) = queued.get_mut(&key) {
                            own.retain(|waiting| *waiting != request);
                        }
                    }
                }
                for (key, own) in &queued {
                    if own.is_empty() {
                        passed.remove(key);
                    }
                }
                prop_assert_eq!(scheduler.waiting(), queued.values().map(VecDeque::len).sum::<usize>());
                let used: std::collections::HashSet<u8> = held.iter().filter(|(_, own)| **own > 0).map(|(key, _)| *key)
                    .chain(queued.iter().filter(|(_, own)| !own.is_empty()).map(|(key, _)| *key)).collect();
                prop_assert_eq!(scheduler.keys(), used.len(), "idle keys take no memory");
            }
        }
    }
}
