//! The phase of a connection and its deadline. The connection's socket, requests and watchdog share it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Time limits of a connection without a complete request.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From the first byte of a request, or the opening of the connection, to the end of the header fields. Then 408 is
    /// sent.
    pub header: Duration,
    /// From a response to the first byte of the next request. Then the connection is closed.
    pub keep_alive_timeout: Duration,
}

/// The phase of one connection.
pub struct ConnectionPhase {
    timeouts: Timeouts,
    state: Mutex<PhaseState>,
}

struct PhaseState {
    phase: Phase,
    since: Instant,
    /// Set after the deadline; the socket then ends the connection at the next read.
    expired: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No byte was received yet.
    Opened,
    /// A part of a request head was received.
    Head,
    /// A request is being answered.
    Answering,
    /// The last response is complete.
    Idle,
    /// The connection was upgraded from HTTP to another protocol.
    Upgraded,
}

impl ConnectionPhase {
    /// The phase of a new connection.
    pub fn new(timeouts: Timeouts) -> Self {
        let state = PhaseState { phase: Phase::Opened, since: Instant::now(), expired: false };
        Self { timeouts, state: Mutex::new(state) }
    }

    /// The time at which the connection ends if its phase does not change. `None` when there is no limit.
    pub fn deadline(&self) -> Option<Instant> {
        let state = self.state();
        match state.phase {
            Phase::Opened | Phase::Head => Some(state.since + self.timeouts.header),
            Phase::Idle => Some(state.since + self.timeouts.keep_alive_timeout),
            Phase::Answering | Phase::Upgraded => None,
        }
    }

    /// Bytes of the client were received.
    pub fn received(&self) {
        let mut state = self.state();
        match state.phase {
            // The time for a head starts with the connection, or with the first byte after an idle phase.
            Phase::Opened => state.phase = Phase::Head,
            Phase::Idle => (state.phase, state.since) = (Phase::Head, Instant::now()),
            Phase::Head | Phase::Answering | Phase::Upgraded => {}
        }
    }

    /// A request head is complete.
    pub fn answering(&self) {
        self.state().phase = Phase::Answering;
    }

    /// The response was written completely.
    pub fn answered(&self) {
        let mut state = self.state();
        if state.phase == Phase::Answering {
            (state.phase, state.since) = (Phase::Idle, Instant::now());
        }
    }

    /// The connection was upgraded to another protocol.
    pub fn upgraded(&self) {
        self.state().phase = Phase::Upgraded;
    }

    /// Whether bytes that are written now belong to no parsed request.
    pub fn is_between_requests(&self) -> bool {
        matches!(self.state().phase, Phase::Opened | Phase::Head | Phase::Idle)
    }

    /// Marks the deadline as passed.
    pub fn expire(&self) {
        self.state().expired = true;
    }

    /// `Some` after the deadline: whether it passed in the middle of a request head.
    pub fn expired(&self) -> Option<bool> {
        let state = self.state();
        state.expired.then_some(state.phase == Phase::Head)
    }

    fn state(&self) -> MutexGuard<'_, PhaseState> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts =
        Timeouts { header: Duration::from_secs(10), keep_alive_timeout: Duration::from_mins(1) };

    #[tokio::test(start_paused = true)]
    async fn a_head_that_comes_byte_by_byte_has_no_more_time_than_another() {
        let phase = ConnectionPhase::new(TIMEOUTS);
        let opened = Instant::now();
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(2)).await;
            phase.received();
            assert_eq!(phase.deadline(), Some(opened + TIMEOUTS.header));
        }
        phase.answering();
        assert_eq!(phase.deadline(), None);
        phase.received();
        assert_eq!(phase.deadline(), None, "a body has other limits");
        phase.answered();
        assert_eq!(phase.deadline(), Some(Instant::now() + TIMEOUTS.keep_alive_timeout));
        tokio::time::advance(Duration::from_secs(59)).await;
        phase.received();
        assert_eq!(phase.deadline(), Some(Instant::now() + TIMEOUTS.header));
    }

    #[tokio::test(start_paused = true)]
    async fn another_protocol_has_its_own_timeouts() {
        let phase = ConnectionPhase::new(TIMEOUTS);
        phase.received();
        phase.answering();
        phase.upgraded();
        phase.answered();
        phase.received();
        assert_eq!(phase.deadline(), None);
        assert!(!phase.is_between_requests());
    }
}
