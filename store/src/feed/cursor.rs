//! The state of a feed for one tenant: checkpoint, buffered events and whether a batch is in progress.

use std::collections::VecDeque;

use schemas::engine::{LogId, RecordedEvent};

/// Maximum buffered events per tenant.
const CURSOR_BUFFER_EVENTS_MAX: usize = 2_000;

#[derive(Default)]
pub(super) struct FeedCursor {
    /// The position up to which the consumer has processed the log, if known.
    checkpoint: Option<u64>,
    /// The stored checkpoint is at least here. The events up to `checkpoint` have no effect.
    stored: u64,
    /// The last known checkpoint of the log, for the lag.
    reached: Option<u64>,
    /// The highest known position of the log.
    head: u64,
    log_id: Option<LogId>,
    /// An event of another log was received: the log must be looked up in the store.
    needs_lookup: bool,
    /// Contiguous events after the checkpoint and after the batch in progress.
    buffer: VecDeque<RecordedEvent>,
    /// The position of the last event in the batch in progress.
    in_flight_to: Option<u64>,
    state: State,
    failures: u32,
    /// A checkpoint that was beyond the head. It is not used, even if the head has passed it since.
    refused: Option<u64>,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    Busy,
    Waiting,
}

/// The input of one batch.
pub(super) struct CursorBatch {
    pub(super) checkpoint: Option<u64>,
    pub(super) stored: u64,
    pub(super) refused: Option<u64>,
    log_id: Option<LogId>,
    events: Vec<RecordedEvent>,
}

impl CursorBatch {
    /// The buffered events after `from`, or `None` if they do not start at `from + 1`.
    pub(super) fn events_after(self, from: u64) -> Option<(LogId, Vec<RecordedEvent>)> {
        let mut events = self.events;
        events.retain(|event| event.position > from);
        match (self.log_id, events.first()) {
            (Some(log_id), Some(first)) if first.position == from + 1 => Some((log_id, events)),
            _ => None,
        }
    }
}

impl FeedCursor {
    /// Buffers events that continue the buffered ones; at most `room` of them.
    /// Events of an unknown log cause a look-up in the store instead, because that log may have been replaced.
    pub(super) fn offer(&mut self, log_id: LogId, events: Vec<RecordedEvent>, room: usize) {
        if self.log_id != Some(log_id) {
            self.needs_lookup = true;
            return;
        }
        let room = self.buffer.len() + room.min(CURSOR_BUFFER_EVENTS_MAX.saturating_sub(self.buffer.len()));
        for event in events {
            self.head = self.head.max(event.position);
            if self.next().is_none_or(|next| next == event.position) && self.buffer.len() < room {
                self.buffer.push_back(event);
            }
        }
    }

    /// The next position to buffer, if known. It is unknown while the log is read.
    fn next(&self) -> Option<u64> {
        let end = match self.state {
            State::Busy => self.in_flight_to,
            State::Idle | State::Waiting => self.checkpoint,
        };
        self.buffer.back().map(|last| last.position).or(end).map(|last| last + 1)
    }

    /// Drops all state, because the log was replaced or ends before the known position.
    fn reset(&mut self, log_id: LogId) {
        self.buffer.clear();
        self.checkpoint = None;
        self.stored = 0;
        self.reached = None;
        self.head = 0;
        self.log_id = Some(log_id);
    }

    /// Whether a head of this log can follow from the known one. The log may have been replaced, or end earlier.
    pub(super) fn may_move_to(&self, log_id: LogId, head: u64) -> bool {
        self.log_id.is_none_or(|known| known == log_id)
            && self.checkpoint.is_none_or(|checkpoint| checkpoint <= head)
    }

    /// Events after the last known checkpoint; 0 if none is known.
    pub(super) fn lag(&self) -> u64 {
        self.reached.map_or(0, |reached| self.head.saturating_sub(reached))
    }

    /// Records the head, and the checkpoint as read from the store.
    /// Returns `true` if the log ends before the known checkpoint.
    pub(super) fn observe(&mut self, log_id: LogId, head: u64, checkpoint: Option<u64>) -> bool {
        let regressed = self.log_id == Some(log_id) && self.checkpoint.is_some_and(|known| known > head);
        // A batch in progress fails by itself: its checkpoint does not move.
        if regressed || self.log_id.is_some_and(|known| known != log_id) {
            self.reset(log_id);
        }
        self.log_id = Some(log_id);
        self.head = self.head.max(head);
        // A batch in progress is about to move the checkpoint, so the value read may be old.
        if self.state != State::Busy
            && let Some(checkpoint) = checkpoint
            && self.checkpoint.is_none_or(|known| known < checkpoint)
        {
            self.set_checkpoint(Some(checkpoint));
        }
        regressed
    }

    pub(super) fn knows_checkpoint(&self) -> bool {
        self.checkpoint.is_some()
    }

    pub(super) fn is_due(&self) -> bool {
        // An empty log has nothing to look up.
        self.state == State::Idle && (self.needs_lookup || self.checkpoint.unwrap_or(0) < self.head)
    }

    pub(super) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    pub(super) fn begin(&mut self, limit: usize) -> CursorBatch {
        self.state = State::Busy;
        if std::mem::take(&mut self.needs_lookup) {
            self.buffer.clear();
        }
        let count = self.buffer.len().min(limit);
        let events: Vec<RecordedEvent> = self.buffer.drain(..count).collect();
        self.in_flight_to = events.last().map(|event| event.position);
        CursorBatch {
            checkpoint: self.checkpoint,
            stored: self.stored,
            refused: self.refused,
            log_id: self.log_id,
            events,
        }
    }

    /// Ends a batch without effect. The stored checkpoint stays for now, at `stored`.
    /// Returns `false` if it must be looked up, because the log is another one.
    pub(super) fn skip(&mut self, log_id: LogId, stored: u64, position: u64) -> bool {
        self.state = State::Idle;
        if self.log_id != Some(log_id) {
            self.reset(log_id);
            self.needs_lookup = true;
            return false;
        }
        if self.checkpoint == Some(position) {
            // The log had no event after the checkpoint, so the known head was too high.
            self.head = position;
        }
        self.set_checkpoint(Some(position));
        self.stored = stored;
        self.refused = None;
        true
    }

    /// Whether no batch is in progress and none is delayed.
    pub(super) fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// Ends a batch with the checkpoint at this position of this log.
    pub(super) fn end(&mut self, log_id: LogId, checkpoint: u64) {
        if self.log_id != Some(log_id) {
            self.reset(log_id);
        }
        if self.checkpoint == Some(checkpoint) {
            // The log had no event after the checkpoint, so the known head was too high.
            self.head = checkpoint;
        }
        self.set_checkpoint(Some(checkpoint));
        self.refused = None;
        self.failures = 0;
        self.state = State::Idle;
    }

    /// Forgets a stored checkpoint that is beyond the head or was refused, so that the next batch looks it up.
    pub(super) fn doubt(&mut self, stored: u64, is_beyond: bool) {
        if self.state != State::Busy && (is_beyond || self.refused == Some(stored)) {
            self.checkpoint = None;
        }
    }

    /// Does not use this checkpoint, until the stored one is another.
    pub(super) fn refuse(&mut self, checkpoint: u64) {
        self.refused = Some(checkpoint);
    }

    /// Ends a batch after a conflict: the checkpoint is looked up again after a delay.
    pub(super) fn mark_conflict(&mut self) {
        self.checkpoint = None;
        self.state = State::Waiting;
    }

    /// Ends a failed batch and drops its events; the log has them. Returns the number of failures in a row.
    pub(super) fn fail(&mut self) -> u32 {
        self.failures += 1;
        self.pause();
        self.failures
    }

    /// Ends a batch that did not run because the tenant is paused. Drops its events; the log has them.
    pub(super) fn pause(&mut self) {
        self.state = State::Waiting;
        self.buffer.clear();
        self.checkpoint = None;
    }

    pub(super) fn resume(&mut self) {
        self.state = State::Idle;
    }

    fn set_checkpoint(&mut self, checkpoint: Option<u64>) {
        self.checkpoint = checkpoint;
        if let Some(checkpoint) = checkpoint {
            self.stored = checkpoint;
            self.reached = Some(checkpoint);
            while self.buffer.front().is_some_and(|event| event.position <= checkpoint) {
                self.buffer.pop_front();
            }
            if self.buffer.front().is_some_and(|event| event.position > checkpoint + 1) {
                self.buffer.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use schemas::engine::{Actor, EventType, Metadata, StreamName};
    use uuid::Uuid;

    use super::*;

    const LOG: LogId = LogId(Uuid::from_u128(1));
    const OTHER: LogId = LogId(Uuid::from_u128(2));

    fn events(positions: std::ops::RangeInclusive<u64>) -> Vec<RecordedEvent> {
        let event = |position| RecordedEvent {
            log_id: LOG,
            position,
            stream: StreamName::new("a.b", Uuid::nil()),
            version: position,
            event_id: Uuid::nil(),
            event_type: EventType::parse("a.b.happened.v1").expect("a valid type"),
            recorded_at: chrono::DateTime::UNIX_EPOCH,
            payload: Bytes::new(),
            metadata: Metadata::new(Actor::anonymous(), Uuid::nil()),
        };
        positions.map(event).collect()
    }

    fn positions(prepared: CursorBatch, from: u64) -> Option<Vec<u64>> {
        prepared.events_after(from).map(|(_, events)| events.iter().map(|event| event.position).collect())
    }

    fn cursor_at(checkpoint: u64) -> FeedCursor {
        let mut cursor = FeedCursor::default();
        cursor.observe(LOG, checkpoint, Some(checkpoint));
        cursor
    }

    #[test]
    fn followed_events_that_continue_the_checkpoint_are_handed_over() {
        let mut cursor = cursor_at(3);
        assert!(!cursor.is_due());
        cursor.offer(LOG, events(4..=6), 10);
        assert!(cursor.is_due());
        assert_eq!(positions(cursor.begin(2), 3), Some(vec![4, 5]));
        assert!(!cursor.is_due(), "one turn at a time");
        cursor.end(LOG, 5);
        assert_eq!(positions(cursor.begin(2), 5), Some(vec![6]));
    }

    #[test]
    fn a_turn_without_effect_goes_on_while_the_stored_checkpoint_stays() {
        let mut cursor = cursor_at(3);
        cursor.offer(LOG, events(4..=7), 10);
        let prepared = cursor.begin(2);
        assert_eq!((prepared.checkpoint, prepared.stored), (Some(3), 3));
        assert!(cursor.skip(LOG, 3, 5));
        let prepared = cursor.begin(2);
        assert_eq!((prepared.checkpoint, prepared.stored), (Some(5), 3));
        assert_eq!(positions(prepared, 5), Some(vec![6, 7]));
        cursor.end(LOG, 7);
        assert_eq!((cursor.stored, cursor.lag(), cursor.is_due()), (7, 0, false));
        cursor.begin(2);
        assert!(!cursor.skip(OTHER, 7, 8), "the checkpoint is of another log");
        assert_eq!((cursor.checkpoint, cursor.is_due()), (None, true));
    }

    #[test]
    fn an_empty_log_is_not_looked_up() {
        let mut cursor = FeedCursor::default();
        cursor.observe(LOG, 0, None);
        assert!(!cursor.is_due());
        cursor.observe(LOG, 1, None);
        assert!(cursor.is_due());
    }

    #[test]
    fn repeated_events_are_dropped() {
        let mut cursor = cursor_at(5);
        cursor.offer(LOG, events(2..=5), 10);
        assert!(!cursor.is_due());
        cursor.offer(LOG, events(4..=7), 10);
        assert_eq!(positions(cursor.begin(10), 5), Some(vec![6, 7]));
    }

    #[test]
    fn a_gap_sends_the_reader_to_the_log() {
        let mut cursor = cursor_at(5);
        cursor.offer(LOG, events(8..=9), 10);
        assert!(cursor.is_due());
        assert_eq!(positions(cursor.begin(10), 5), None);
        cursor.end(LOG, 9);
        assert!(!cursor.is_due());
    }

    #[test]
    fn events_that_arrive_during_a_turn_are_kept_for_the_next() {
        let mut cursor = cursor_at(3);
        cursor.offer(LOG, events(4..=5), 10);
        let _ = cursor.begin(10);
        cursor.offer(LOG, events(6..=7), 10);
        cursor.end(LOG, 5);
        assert_eq!(positions(cursor.begin(10), 5), Some(vec![6, 7]));
        cursor.offer(LOG, events(9..=9), 10);
        cursor.end(LOG, 7);
        assert_eq!(positions(cursor.begin(10), 7), None);
    }

    #[test]
    fn a_checkpoint_moved_by_somebody_else_is_taken_over() {
        let mut cursor = cursor_at(5);
        cursor.offer(LOG, events(6..=9), 10);
        cursor.observe(LOG, 9, Some(7));
        assert_eq!(positions(cursor.begin(10), 7), Some(vec![8, 9]));
    }

    #[test]
    fn what_finds_no_room_is_read_from_the_log_later() {
        let mut cursor = cursor_at(0);
        cursor.offer(LOG, events(1..=9), 3);
        assert_eq!(positions(cursor.begin(10), 0), Some(vec![1, 2, 3]));
        cursor.end(LOG, 3);
        assert!(cursor.is_due());
        assert_eq!(positions(cursor.begin(10), 3), None);
    }

    #[test]
    fn a_failure_waits_and_starts_from_the_store_again() {
        let mut cursor = cursor_at(0);
        cursor.offer(LOG, events(1..=2), 10);
        let _ = cursor.begin(10);
        assert_eq!(cursor.fail(), 1);
        assert!(!cursor.is_due());
        cursor.resume();
        assert!(cursor.is_due());
        assert_eq!(cursor.begin(10).checkpoint, None);
    }

    #[test]
    fn a_checkpoint_beyond_the_head_is_looked_up_until_it_is_another() {
        let mut cursor = cursor_at(5);
        let observed = |cursor: &mut FeedCursor, head: u64, stored: u64| {
            cursor.observe(LOG, head, Some(stored));
            cursor.doubt(stored, stored > head);
            cursor.checkpoint
        };
        assert_eq!(observed(&mut cursor, 6, 9), None);
        let prepared = cursor.begin(10);
        assert_eq!((prepared.checkpoint, prepared.refused), (None, None));
        cursor.refuse(9);
        cursor.fail();
        cursor.resume();
        assert_eq!(observed(&mut cursor, 12, 9), None, "although the head has passed it");
        assert_eq!(cursor.begin(10).refused, Some(9));
        cursor.fail();
        cursor.resume();
        assert_eq!(observed(&mut cursor, 12, 6), Some(6));
        cursor.begin(10);
        cursor.end(LOG, 9);
        assert_eq!(observed(&mut cursor, 12, 9), Some(9), "now it was reached");
    }

    #[test]
    fn a_lost_turn_looks_the_checkpoint_up_and_keeps_what_is_followed() {
        let mut cursor = cursor_at(0);
        cursor.offer(LOG, events(1..=2), 10);
        let _ = cursor.begin(10);
        cursor.offer(LOG, events(3..=4), 10);
        cursor.mark_conflict();
        assert!(!cursor.is_due());
        cursor.resume();
        let prepared = cursor.begin(10);
        assert_eq!(prepared.checkpoint, None);
        assert_eq!(positions(prepared, 2), Some(vec![3, 4]));
    }

    #[test]
    fn what_is_followed_of_another_log_sends_the_reader_to_the_store() {
        let mut cursor = cursor_at(5);
        cursor.offer(OTHER, events(6..=7), 10);
        assert!(cursor.is_due());
        assert_eq!((cursor.buffered(), cursor.head), (0, 5));
        let prepared = cursor.begin(10);
        assert_eq!(prepared.checkpoint, Some(5));
        assert_eq!(positions(prepared, 5), None);
        cursor.end(LOG, 5);
        assert!(!cursor.is_due(), "a repeat of a log that is no more");
        cursor.offer(LOG, events(6..=6), 10);
        assert_eq!(positions(cursor.begin(10), 5), Some(vec![6]));
        cursor.offer(OTHER, events(3..=3), 10);
        cursor.end(OTHER, 3);
        assert!(cursor.is_due(), "the log was replaced: where the checkpoint is has to be looked up");
    }

    #[test]
    fn the_store_tells_of_another_log_as_well() {
        let mut cursor = cursor_at(9);
        assert!(!cursor.observe(LogId(Uuid::from_u128(2)), 6, Some(5)));
        assert!(cursor.is_due(), "nothing of it was followed yet");
        assert_eq!(cursor.begin(10).checkpoint, Some(5));
    }

    #[test]
    fn a_log_that_ends_before_what_was_followed_is_followed_from_its_checkpoint() {
        let mut cursor = cursor_at(9);
        cursor.offer(LOG, events(10..=11), 10);
        assert!(cursor.observe(LOG, 5, Some(4)));
        assert_eq!(cursor.buffered(), 0);
        assert_eq!(cursor.begin(10).checkpoint, Some(4));
    }
}
