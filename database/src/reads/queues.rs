//! Which waiting group goes to which connection.
//!
//! Keys are served round-robin.
//! A connection has groups of one key at a time, so a slow group delays groups of its own key only.
//! A key holds at most `connections_per_key` connections, and the last free one goes to a key without one.

use std::collections::{HashMap, VecDeque};

use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;

use super::connection::Request;

/// Maximum groups on one connection, the running one included.
pub(super) const PIPELINE_MAX: usize = 4;
/// A key whose connections all have this many groups gets a further connection.
const PIPELINE_TARGET: usize = 2;
/// Maximum waiting groups, of one key and in total. Further groups are refused.
pub(super) const KEY_WAITERS_MAX: usize = 256;
pub(super) const WAITERS_MAX: usize = 4_096;

/// An open connection.
pub(super) struct Slot {
    pub(super) id: u64,
    sender: UnboundedSender<Request>,
    key: Uuid,
    running: usize,
}

pub(super) struct Queues {
    connections: usize,
    connections_per_key: usize,
    /// The last used idle connection is the last one and is used next, so that unneeded ones stay idle.
    slots: Vec<Slot>,
    /// Connections that are being opened.
    pub(super) opening: usize,
    waiting: HashMap<Uuid, VecDeque<Request>>,
    /// The keys with waiting groups, the next one first.
    turns: VecDeque<Uuid>,
    count: usize,
}

impl Queues {
    pub(super) fn new(connections: usize, connections_per_key: usize) -> Self {
        Self {
            connections,
            connections_per_key,
            slots: Vec::new(),
            opening: 0,
            waiting: HashMap::new(),
            turns: VecDeque::new(),
            count: 0,
        }
    }

    /// Whether no connection is open.
    pub(super) fn is_disconnected(&self) -> bool {
        self.slots.is_empty()
    }

    /// Adds a group to the queue of its key. Returns `false` when the queue is full.
    pub(super) fn push(&mut self, key: Uuid, request: Request) -> bool {
        let queue = self.waiting.entry(key).or_default();
        if queue.len() >= KEY_WAITERS_MAX || self.count >= WAITERS_MAX {
            // A queue that was full has groups, so only a new one is empty.
            if queue.is_empty() {
                self.waiting.remove(&key);
            }
            return false;
        }
        if queue.is_empty() {
            self.turns.push_back(key);
        }
        queue.push_back(request);
        self.count += 1;
        true
    }

    /// Removes a waiting group. Returns `None` when it does not wait any more.
    pub(super) fn remove(&mut self, key: Uuid, id: u64) -> Option<Request> {
        let queue = self.waiting.get_mut(&key)?;
        let index = queue.iter().position(|request| request.id == id)?;
        let request = queue.remove(index)?;
        self.taken(key);
        Some(request)
    }

    /// Removes all waiting groups.
    pub(super) fn drain(&mut self) -> Vec<Request> {
        self.turns.clear();
        self.count = 0;
        self.waiting.drain().flat_map(|(_, queue)| queue).collect()
    }

    pub(super) fn add_slot(&mut self, id: u64, sender: UnboundedSender<Request>) {
        self.slots.push(Slot { id, sender, key: Uuid::nil(), running: 0 });
    }

    /// Removes a connection. Its groups are no longer counted.
    pub(super) fn remove_slot(&mut self, id: u64) {
        self.slots.retain(|slot| slot.id != id);
    }

    /// Removes a connection without groups: the drop of its sender closes it.
    pub(super) fn remove_idle_slot(&mut self, id: u64) {
        self.slots.retain(|slot| slot.id != id || slot.running > 0);
    }

    /// Counts an answer of a connection.
    pub(super) fn answered(&mut self, id: u64) {
        let Some(index) = self.slots.iter().position(|slot| slot.id == id) else { return };
        self.slots[index].running -= 1;
        if self.slots[index].running == 0 {
            let slot = self.slots.remove(index);
            self.slots.push(slot);
        }
    }

    /// Sends waiting groups to connections. Returns the number of connections to open.
    pub(super) fn dispatch(&mut self) -> usize {
        let mut wanted = 0;
        while let Some((key, index)) = self.placement() {
            let Some(request) = self.waiting.get_mut(&key).and_then(VecDeque::pop_front) else { break };
            let slot = &mut self.slots[index];
            slot.key = key;
            slot.running += 1;
            let is_long = slot.running > PIPELINE_TARGET;
            if let Err(unsent) = slot.sender.send(request) {
                // The connection has just ended.
                self.slots.remove(index);
                self.waiting.entry(key).or_default().push_front(unsent.0);
                continue;
            }
            self.taken(key);
            if is_long && self.may_take(key) {
                wanted = 1;
            }
        }
        let waiting = self.turns.iter().take(self.connections).filter(|key| self.may_take(**key)).count();
        let free = self.connections.saturating_sub(self.slots.len() + self.opening);
        let opened = wanted.max(waiting).saturating_sub(self.opening).min(free);
        self.opening += opened;
        opened
    }

    /// The next key and its connection.
    fn placement(&self) -> Option<(Uuid, usize)> {
        if let Some(idle) = self.slots.iter().rposition(|slot| slot.running == 0)
            && let Some(key) = self.turns.iter().find(|key| self.may_take(**key))
        {
            return Some((*key, idle));
        }
        // A key without a connection waits until one is empty, so nothing is added to busy ones.
        if self.turns.iter().any(|key| self.held(*key) == 0) {
            return None;
        }
        let busy =
            self.slots.iter().enumerate().filter(|(_, slot)| (1..PIPELINE_MAX).contains(&slot.running));
        busy.filter(|(_, slot)| self.waiting.contains_key(&slot.key))
            .min_by_key(|(_, slot)| slot.running)
            .map(|(index, slot)| (slot.key, index))
    }

    /// Whether a key may take one more connection.
    fn may_take(&self, key: Uuid) -> bool {
        let held = self.held(key);
        let busy = self.slots.iter().filter(|slot| slot.running > 0).count();
        let free = self.connections.saturating_sub(busy);
        if held == 0 { free > 0 } else { held < self.connections_per_key && free > 1 }
    }

    /// The number of connections that a key holds.
    fn held(&self, key: Uuid) -> usize {
        self.slots.iter().filter(|slot| slot.running > 0 && slot.key == key).count()
    }

    /// Updates turns and counts after a group has left the queue of its key: the key goes to the end of the line.
    fn taken(&mut self, key: Uuid) {
        self.count -= 1;
        if let Some(turn) = self.turns.iter().position(|other| *other == key) {
            self.turns.remove(turn);
        }
        if self.waiting.get(&key).is_some_and(VecDeque::is_empty) {
            self.waiting.remove(&key);
        } else {
            self.turns.push_back(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use tokio::sync::mpsc::{self, UnboundedReceiver};
    use tokio::sync::oneshot;

    use super::super::group::Group;
    use super::*;

    struct Site {
        queues: Queues,
        slots: Vec<(u64, UnboundedReceiver<Request>)>,
        sent: u64,
    }

    impl Site {
        fn new(connections: usize, per_key: usize) -> Self {
            Self { queues: Queues::new(connections, per_key), slots: Vec::new(), sent: 0 }
        }

        fn push(&mut self, key: u128) -> bool {
            self.sent += 1;
            let group = Arc::new(Group::new(&[]).expect("small"));
            let request = Request { id: self.sent, group, reply: oneshot::channel().0 };
            let pushed = self.queues.push(Uuid::from_u128(key), request);
            self.dispatch();
            pushed
        }

        /// Opens the connections that are wanted at once.
        fn dispatch(&mut self) {
            loop {
                let opened = self.queues.dispatch();
                for _ in 0..opened {
                    let (sender, receiver) = mpsc::unbounded_channel();
                    let id = self.slots.len() as u64;
                    self.queues.opening -= 1;
                    self.queues.add_slot(id, sender);
                    self.slots.push((id, receiver));
                }
                if opened == 0 {
                    return;
                }
            }
        }

        fn running(&self) -> Vec<(u128, usize)> {
            let busy = self.queues.slots.iter().filter(|slot| slot.running > 0);
            busy.map(|slot| (slot.key.as_u128(), slot.running)).collect()
        }

        fn connections_of(&self, key: u128) -> usize {
            self.queues.held(Uuid::from_u128(key))
        }

        /// Answers the first group of a connection.
        fn answer(&mut self, index: usize) -> Option<u64> {
            let (id, receiver) = self.slots.get_mut(index)?;
            let request = receiver.try_recv().ok()?;
            self.queues.answered(*id);
            self.dispatch();
            Some(request.id)
        }
    }

    #[test]
    fn one_key_fills_its_share_and_another_finds_a_connection() {
        let mut site = Site::new(4, 3);
        for _ in 0..40 {
            assert!(site.push(1));
        }
        assert_eq!(site.running(), [(1, PIPELINE_MAX); 3]);
        assert!(site.push(2));
        assert_eq!((site.connections_of(1), site.connections_of(2)), (3, 1));
        // No connection is free: the newcomer gets the first one that is empty, before those that came earlier.
        assert!(site.push(3));
        assert_eq!(site.connections_of(3), 0);
        let empty = site.slots.iter().position(|(_, receiver)| receiver.len() == 1).expect("that of key 2");
        site.answer(empty).expect("it has a group");
        assert_eq!((site.connections_of(2), site.connections_of(3)), (0, 1));
    }

    #[test]
    fn few_groups_use_few_connections() {
        let mut site = Site::new(8, 6);
        for _ in 0..PIPELINE_TARGET {
            site.push(1);
        }
        assert_eq!(site.running(), [(1, PIPELINE_TARGET)]);
    }

    #[test]
    fn full_queues_refuse_and_removed_groups_make_room() {
        let mut site = Site::new(1, 1);
        for _ in 0..PIPELINE_MAX + KEY_WAITERS_MAX {
            assert!(site.push(1));
        }
        assert!(!site.push(1));
        let last = site.sent - 1;
        assert!(site.queues.remove(Uuid::from_u128(1), last).is_some());
        assert!(site.queues.remove(Uuid::from_u128(1), last).is_none());
        assert!(site.push(1));
        assert_eq!(site.queues.drain().len(), KEY_WAITERS_MAX);
        assert!(site.queues.waiting.is_empty() && site.queues.turns.is_empty());
    }

    #[test]
    fn a_group_of_a_connection_that_has_ended_waits_for_another_one() {
        let mut site = Site::new(1, 1);
        site.push(1);
        assert_eq!(site.answer(0), Some(1));
        site.slots.clear();
        site.push(1);
        assert_eq!(site.running(), [(1, 1)]);
        assert_eq!(site.answer(0), Some(2));
    }

    proptest! {
        /// Whatever comes in which order, the limits hold, each group is answered once, and no group is forgotten.
        #[test]
        fn the_limits_hold(steps in prop::collection::vec((0_u128..5, 0_usize..6), 1..300)) {
            let mut site = Site::new(4, 3);
            let mut answered = Vec::new();
            for (key, connection) in steps {
                if connection == 5 {
                    prop_assert!(site.push(key));
                } else {
                    answered.extend(site.answer(connection));
                }
                for key in 0..5 {
                    prop_assert!(site.connections_of(key) <= 3);
                }
                prop_assert!(site.running().iter().all(|(_, running)| *running <= PIPELINE_MAX));
                prop_assert!(site.slots.len() <= 4);
            }
            while let Some(index) = (0..site.slots.len()).find(|index| !site.slots[*index].1.is_empty()) {
                answered.extend(site.answer(index));
            }
            answered.sort_unstable();
            prop_assert_eq!(answered, (1..=site.sent).collect::<Vec<_>>());
            prop_assert_eq!(site.queues.count, 0);
            prop_assert!(site.queues.waiting.is_empty() && site.queues.turns.is_empty());
        }
    }
}
