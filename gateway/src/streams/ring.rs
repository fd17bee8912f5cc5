//! The newest events of one tenant, shared by all of its followers in this process. The ring is bounded: a follower that
//! falls out of it reads the log by itself until it has caught up.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemas::engine::LogId;
use store::LogFilter;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::closing::Closing;
use super::frame::Frame;

/// Events kept of one tenant.
const EVENTS: usize = 4_096;
/// Bytes kept of one tenant.
const BYTES: usize = 8 * 1024 * 1024;
/// Bytes kept of all tenants together; above it, each keeps only a little.
const BYTES_IN_ALL: usize = 128 * 1024 * 1024;
const LITTLE: usize = 64 * 1024;
/// Events and bytes that a follower takes at a time.
const TAKEN: usize = 64;
const TAKEN_BYTES: usize = 256 * 1024;
/// Events that a follower looks at in one go for those that match its filter.
const SCANNED: usize = 1_024;

/// What the rings of all tenants hold, in bytes.
pub type Budget = Arc<AtomicUsize>;

/// The newest events of one tenant.
pub struct Ring {
    /// The log that the positions belong to.
    pub log_id: LogId,
    /// Asks the reader to look at the log.
    pub nudge: Arc<Notify>,
    held: Mutex<Held>,
    moved: watch::Sender<u64>,
    budget: Budget,
    _reader: DropGuard,
}

struct Held {
    /// The position before the first frame.
    start: u64,
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
    closed: Option<Closing>,
}

impl Held {
    fn end(&self) -> u64 {
        self.start + self.frames.len() as u64
    }

    /// Lets go of every frame: one may hold, open, what was erased. Returns their bytes.
    fn forget(&mut self) -> usize {
        self.start = self.end();
        self.frames.clear();
        std::mem::take(&mut self.bytes)
    }
}

/// What a follower finds behind its position.
#[derive(Debug)]
pub enum Found {
    /// What matches, up to and with `scanned_to`.
    Frames {
        /// In position order.
        frames: Vec<Arc<Frame>>,
        /// The last position looked at.
        scanned_to: u64,
    },
    /// The ring begins behind this position: what is before stands in the log alone.
    Behind(u64),
    /// Nothing yet.
    Level,
    /// The stream ends.
    Closed(Closing),
}

impl Ring {
    /// An empty ring behind the end of the log; its reader stops with `stop`, when the last follower has gone.
    pub fn new(log_id: LogId, end: u64, budget: Budget, stop: CancellationToken) -> Self {
        let held = Held { start: end, frames: VecDeque::new(), bytes: 0, closed: None };
        let moved = watch::Sender::new(end);
        let (nudge, held) = (Arc::new(Notify::new()), Mutex::new(held));
        Self { log_id, nudge, held, moved, budget, _reader: stop.drop_guard() }
    }

    /// Adds the events right behind the end.
    pub fn push(&self, frames: Vec<Arc<Frame>>) {
        let end = {
            let mut held = lock(&self.held);
            for frame in frames {
                debug_assert_eq!(frame.position, held.end() + 1, "positions are dense");
                if frame.forgets {
                    let freed = held.forget();
                    self.budget.fetch_sub(freed, Ordering::Relaxed);
                }
                held.bytes += frame.size();
                self.budget.fetch_add(frame.size(), Ordering::Relaxed);
                held.frames.push_back(frame);
            }
            let crowded = self.budget.load(Ordering::Relaxed) > BYTES_IN_ALL;
            let bytes = if crowded { LITTLE } else { BYTES };
            while held.frames.len() > EVENTS || held.bytes > bytes {
                let Some(oldest) = held.frames.pop_front() else { break };
                held.start = oldest.position;
                held.bytes -= oldest.size();
                self.budget.fetch_sub(oldest.size(), Ordering::Relaxed);
            }
            held.end()
        };
        self.moved.send_replace(end);
    }

    /// Ends the streams of all followers.
    pub fn close(&self, why: Closing) {
        lock(&self.held).closed.get_or_insert(why);
        self.moved.send_modify(|_| ());
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        lock(&self.held).closed.is_some()
    }

    /// The last position that it has seen.
    pub fn end(&self) -> u64 {
        lock(&self.held).end()
    }

    /// Wakes when there is something new.
    pub fn moves(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// What there is behind `after`.
    pub fn look(&self, after: u64, filter: &LogFilter) -> Found {
        let held = lock(&self.held);
        if let Some(why) = held.closed {
            return Found::Closed(why);
        }
        if after >= held.end() {
            return Found::Level;
        }
        if after < held.start {
            return Found::Behind(held.start);
        }
        let (mut found, mut bytes, mut scanned_to) = (Vec::new(), 0, after);
        for frame in held.frames.iter().skip((after - held.start) as usize).take(SCANNED) {
            if frame.matches(filter) {
                bytes += frame.size();
                found.push(Arc::clone(frame));
            }
            scanned_to = frame.position;
            if found.len() == TAKEN || bytes > TAKEN_BYTES {
                break;
            }
        }
        Found::Frames { frames: found, scanned_to }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.budget.fetch_sub(lock(&self.held).bytes, Ordering::Relaxed);
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    // Nothing panics while holding it.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use schemas::engine::ids;

    use super::*;
    use crate::streams::frame::testing::frame;

    fn ring(end: u64) -> (Ring, Budget) {
        let budget = Budget::default();
        (Ring::new(LogId(ids::random_id()), end, Arc::clone(&budget), CancellationToken::new()), budget)
    }

    fn push(ring: &Ring, positions: impl Iterator<Item = u64>, payload: &str) {
        let types = ["crm.customer.registered.v1", "identity.user.registered.v1"];
        ring.push(positions.map(|at| frame(at, types[(at % 2) as usize], payload)).collect());
    }

    fn positions(found: Found) -> (Vec<u64>, u64) {
        match found {
            Found::Frames { frames, scanned_to } => {
                (frames.iter().map(|frame| frame.position).collect(), scanned_to)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn followers_find_what_is_behind_them() {
        let (ring, _) = ring(10);
        assert!(matches!(ring.look(10, &LogFilter::default()), Found::Level));
        push(&ring, 11..=13, "{}");
        assert_eq!(positions(ring.look(10, &LogFilter::default())), (vec![11, 12, 13], 13));
        assert_eq!(positions(ring.look(12, &LogFilter::default())), (vec![13], 13));
        assert!(matches!(ring.look(9, &LogFilter::default()), Found::Behind(10)));
        assert!(matches!(ring.look(99, &LogFilter::default()), Found::Level));
        let identity = LogFilter { types: vec!["identity.>".parse().expect("a pattern")], stream: None };
        assert_eq!(positions(ring.look(10, &identity)), (vec![11, 13], 13));
        assert_eq!(positions(ring.look(11, &identity)), (vec![13], 13));
        let nothing = LogFilter { types: vec!["shop.>".parse().expect("a pattern")], stream: None };
        assert_eq!(positions(ring.look(10, &nothing)), (vec![], 13));
    }

    #[test]
    fn a_ring_is_bounded_in_events_and_bytes() {
        let (ring, budget) = ring(0);
        push(&ring, 1..=EVENTS as u64 + 10, "{}");
        assert!(matches!(ring.look(9, &LogFilter::default()), Found::Behind(10)));
        let (taken, scanned_to) = positions(ring.look(10, &LogFilter::default()));
        assert_eq!((taken.len(), scanned_to), (TAKEN, 10 + TAKEN as u64));
        let large = format!("\"{}\"", "x".repeat(1024 * 1024));
        let end = ring.end();
        push(&ring, end + 1..=end + 20, &large);
        assert!(budget.load(Ordering::Relaxed) <= BYTES);
        assert!(matches!(ring.look(end, &LogFilter::default()), Found::Behind(_)));
        drop(ring);
        assert_eq!(budget.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn rings_keep_little_when_all_of_them_are_full() {
        let (ring, budget) = ring(0);
        budget.fetch_add(BYTES_IN_ALL, Ordering::Relaxed);
        push(&ring, 1..=1_000, "{}");
        assert!(budget.load(Ordering::Relaxed) - BYTES_IN_ALL <= LITTLE);
        assert!(matches!(ring.look(1, &LogFilter::default()), Found::Behind(_)));
        budget.fetch_sub(BYTES_IN_ALL, Ordering::Relaxed);
    }

    #[tokio::test]
    async fn a_closed_ring_tells_everybody_the_first_reason() {
        let (ring, _) = ring(0);
        let mut moves = ring.moves();
        ring.close(Closing::LogReplaced);
        ring.close(Closing::TenantUnknown);
        moves.changed().await.expect("woken");
        assert!(matches!(ring.look(0, &LogFilter::default()), Found::Closed(Closing::LogReplaced)));
    }

    #[test]
    fn an_erasure_lets_go_of_what_is_held() {
        let (ring, budget) = ring(0);
        push(&ring, 1..=4, "{}");
        ring.push(vec![frame(5, "privacy.subject.erased.v1", "{}")]);
        assert!(matches!(ring.look(2, &LogFilter::default()), Found::Behind(4)));
        assert_eq!(positions(ring.look(4, &LogFilter::default())), (vec![5], 5));
        drop(ring);
        assert_eq!(budget.load(Ordering::Relaxed), 0);
    }
}
