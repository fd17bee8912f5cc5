//! The newest events of one tenant, shared by its followers in this process. The ring has a fixed size. A follower that
//! has a position before the ring reads the log until it has caught up.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemas::engine::LogId;
use store::LogFilter;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::disconnect_reason::DisconnectReason;
use super::frame::Frame;

/// Maximum events in a ring.
const RING_EVENTS_MAX: usize = 4_096;
/// Maximum bytes in a ring.
const RING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Maximum bytes in all rings together. Above it, each ring keeps only a few events.
const ALL_RINGS_BYTES_MAX: usize = 128 * 1024 * 1024;
const CROWDED_RING_BYTES_MAX: usize = 64 * 1024;
/// Maximum events and bytes that a follower takes at a time.
const BATCH_EVENTS_MAX: usize = 64;
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Maximum events that a follower checks against its filter at a time.
const SCANNED_EVENTS_MAX: usize = 1_024;

/// The bytes in the rings of all tenants.
pub type Budget = Arc<AtomicUsize>;

/// The newest events of one tenant.
pub struct Ring {
    /// The id of the log that the positions belong to.
    pub log_id: LogId,
    /// Wakes the reader of the log.
    pub wake_reader: Arc<Notify>,
    buffer: Mutex<RingBuffer>,
    head: watch::Sender<u64>,
    budget: Budget,
    _reader: DropGuard,
}

struct RingBuffer {
    /// The position before the first frame.
    start: u64,
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
    closed: Option<DisconnectReason>,
}

impl RingBuffer {
    fn end(&self) -> u64 {
        self.start + self.frames.len() as u64
    }

    /// Removes all frames, because a frame may hold decrypted data that is erased now. Returns the freed bytes.
    fn discard_all(&mut self) -> usize {
        self.start = self.end();
        self.frames.clear();
        std::mem::take(&mut self.bytes)
    }
}

/// The result of reading a ring after a position.
#[derive(Debug)]
pub enum RingRead {
    /// Events that match the filter, up to and including `scanned_to`.
    Frames {
        /// In order of position.
        frames: Vec<Arc<Frame>>,
        /// The last position that was checked against the filter.
        scanned_to: u64,
    },
    /// The position is before the ring. Events up to and including this one must be read from the log.
    BeforeStart(u64),
    /// No new events.
    UpToDate,
    /// The stream ends.
    Closed(DisconnectReason),
}

impl Ring {
    /// An empty ring at the end of the log. `stop` is cancelled when the ring is dropped, which stops its reader.
    pub fn new(log_id: LogId, end: u64, budget: Budget, stop: CancellationToken) -> Self {
        let buffer = RingBuffer { start: end, frames: VecDeque::new(), bytes: 0, closed: None };
        let head = watch::Sender::new(end);
        let (wake_reader, buffer) = (Arc::new(Notify::new()), Mutex::new(buffer));
        Self { log_id, wake_reader, buffer, head, budget, _reader: stop.drop_guard() }
    }

    /// Adds the events that follow the end.
    pub fn push(&self, frames: Vec<Arc<Frame>>) {
        let end = {
            let mut buffer = lock(&self.buffer);
            for frame in frames {
                debug_assert_eq!(frame.position, buffer.end() + 1, "positions are dense");
                if frame.is_erasure {
                    let freed = buffer.discard_all();
                    self.budget.fetch_sub(freed, Ordering::Relaxed);
                }
                buffer.bytes += frame.size();
                self.budget.fetch_add(frame.size(), Ordering::Relaxed);
                buffer.frames.push_back(frame);
            }
            let crowded = self.budget.load(Ordering::Relaxed) > ALL_RINGS_BYTES_MAX;
            let bytes = if crowded { CROWDED_RING_BYTES_MAX } else { RING_BYTES_MAX };
            while buffer.frames.len() > RING_EVENTS_MAX || buffer.bytes > bytes {
                let Some(oldest) = buffer.frames.pop_front() else { break };
                buffer.start = oldest.position;
                buffer.bytes -= oldest.size();
                self.budget.fetch_sub(oldest.size(), Ordering::Relaxed);
            }
            buffer.end()
        };
        self.head.send_replace(end);
    }

    /// Ends the streams of all followers.
    pub fn close(&self, reason: DisconnectReason) {
        lock(&self.buffer).closed.get_or_insert(reason);
        self.head.send_modify(|_| ());
    }

    /// Whether the ring is closed.
    pub fn is_closed(&self) -> bool {
        lock(&self.buffer).closed.is_some()
    }

    /// The last position that was added.
    pub fn end(&self) -> u64 {
        lock(&self.buffer).end()
    }

    /// Receives each new end of the ring.
    pub fn head_updates(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// The events after `after` that match the filter.
    pub fn read_after(&self, after: u64, filter: &LogFilter) -> RingRead {
        let buffer = lock(&self.buffer);
        if let Some(reason) = buffer.closed {
            return RingRead::Closed(reason);
        }
        if after >= buffer.end() {
            return RingRead::UpToDate;
        }
        if after < buffer.start {
            return RingRead::BeforeStart(buffer.start);
        }
        let (mut found, mut bytes, mut scanned_to) = (Vec::new(), 0, after);
        for frame in buffer.frames.iter().skip((after - buffer.start) as usize).take(SCANNED_EVENTS_MAX) {
            if frame.matches(filter) {
                bytes += frame.size();
                found.push(Arc::clone(frame));
            }
            scanned_to = frame.position;
            if found.len() == BATCH_EVENTS_MAX || bytes > BATCH_BYTES_MAX {
                break;
            }
        }
        RingRead::Frames { frames: found, scanned_to }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.budget.fetch_sub(lock(&self.buffer).bytes, Ordering::Relaxed);
    }
}

fn lock(buffer: &Mutex<RingBuffer>) -> MutexGuard<'_, RingBuffer> {
    // No code panics while it holds the lock.
    buffer.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn positions(found: RingRead) -> (Vec<u64>, u64) {
        match found {
            RingRead::Frames { frames, scanned_to } => {
                (frames.iter().map(|frame| frame.position).collect(), scanned_to)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn followers_find_what_is_behind_them() {
        let (ring, _) = ring(10);
        assert!(matches!(ring.read_after(10, &LogFilter::default()), RingRead::UpToDate));
        push(&ring, 11..=13, "{}");
        assert_eq!(positions(ring.read_after(10, &LogFilter::default())), (vec![11, 12, 13], 13));
        assert_eq!(positions(ring.read_after(12, &LogFilter::default())), (vec![13], 13));
        assert!(matches!(ring.read_after(9, &LogFilter::default()), RingRead::BeforeStart(10)));
        assert!(matches!(ring.read_after(99, &LogFilter::default()), RingRead::UpToDate));
        let identity = LogFilter { types: vec!["identity.>".parse().expect("a pattern")], stream: None };
        assert_eq!(positions(ring.read_after(10, &identity)), (vec![11, 13], 13));
        assert_eq!(positions(ring.read_after(11, &identity)), (vec![13], 13));
        let nothing = LogFilter { types: vec!["shop.>".parse().expect("a pattern")], stream: None };
        assert_eq!(positions(ring.read_after(10, &nothing)), (vec![], 13));
    }

    #[test]
    fn a_ring_is_bounded_in_events_and_bytes() {
        let (ring, budget) = ring(0);
        push(&ring, 1..=RING_EVENTS_MAX as u64 + 10, "{}");
        assert!(matches!(ring.read_after(9, &LogFilter::default()), RingRead::BeforeStart(10)));
        let (taken, scanned_to) = positions(ring.read_after(10, &LogFilter::default()));
        assert_eq!((taken.len(), scanned_to), (BATCH_EVENTS_MAX, 10 + BATCH_EVENTS_MAX as u64));
        let large = format!("\"{}\"", "x".repeat(1024 * 1024));
        let end = ring.end();
        push(&ring, end + 1..=end + 20, &large);
        assert!(budget.load(Ordering::Relaxed) <= RING_BYTES_MAX);
        assert!(matches!(ring.read_after(end, &LogFilter::default()), RingRead::BeforeStart(_)));
        drop(ring);
        assert_eq!(budget.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn rings_keep_little_when_all_of_them_are_full() {
        let (ring, budget) = ring(0);
        budget.fetch_add(ALL_RINGS_BYTES_MAX, Ordering::Relaxed);
        push(&ring, 1..=1_000, "{}");
        assert!(budget.load(Ordering::Relaxed) - ALL_RINGS_BYTES_MAX <= CROWDED_RING_BYTES_MAX);
        assert!(matches!(ring.read_after(1, &LogFilter::default()), RingRead::BeforeStart(_)));
        budget.fetch_sub(ALL_RINGS_BYTES_MAX, Ordering::Relaxed);
    }

    #[tokio::test]
    async fn a_closed_ring_tells_everybody_the_first_reason() {
        let (ring, _) = ring(0);
        let mut head_updates = ring.head_updates();
        ring.close(DisconnectReason::LogReplaced);
        ring.close(DisconnectReason::TenantUnknown);
        head_updates.changed().await.expect("woken");
        assert!(matches!(
            ring.read_after(0, &LogFilter::default()),
            RingRead::Closed(DisconnectReason::LogReplaced)
        ));
    }

    #[test]
    fn an_erasure_lets_go_of_what_is_held() {
        let (ring, budget) = ring(0);
        push(&ring, 1..=4, "{}");
        ring.push(vec![frame(5, "privacy.subject.erased.v1", "{}")]);
        assert!(matches!(ring.read_after(2, &LogFilter::default()), RingRead::BeforeStart(4)));
        assert_eq!(positions(ring.read_after(4, &LogFilter::default())), (vec![5], 5));
        drop(ring);
        assert_eq!(budget.load(Ordering::Relaxed), 0);
    }
}
