//! What a connection is doing, and until when it may: its socket, its requests and its watchdog share this.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a connection may be without a complete request.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From the first byte of a request, or from the opening of the connection, to the end of its header fields.
    pub header: Duration,
    /// From an answer to the first byte of the next request.
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
    /// The time is up; the socket ends the connection at the next read.
    expired: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No byte has come yet.
    Opened,
    /// A part of a request's head has come.
    Head,
    /// A request is being answered.
    Answering,
    /// The last answer is complete.
    Idle,
    /// The connection does not speak HTTP any more.
    Upgraded,
}

impl ConnectionPhase {
    /// The phase of a connection that was opened just now.
    pub fn new(timeouts: Timeouts) -> Self {
        let state = PhaseState { phase: Phase::Opened, since: Instant::now(), expired: false };
        Self { timeouts, state: Mutex::new(state) }
    }

    /// When the connection ends unless something happens on it.
    pub fn deadline(&self) -> Option<Instant> {
        let state = self.state();
        match state.phase {
            Phase::Opened | Phase::Head => Some(state.since + self.timeouts.header),
            Phase::Idle => Some(state.since + self.timeouts.keep_alive_timeout),
            Phase::Answering | Phase::Upgraded => None,
        }
    }

    /// Bytes of the client came.
    pub fn received(&self) {
        let mut state = self.state();
        match state.phase {
            // The time of a head begins with the connection, or with its first byte on one that was idle.
            Phase::Opened => state.phase = Phase::Head,
            Phase::Idle => (state.phase, state.since) = (Phase::Head, Instant::now()),
            Phase::Head | Phase::Answering | Phase::Upgraded => {}
        }
    }

    /// A request has come.
    pub fn answering(&self) {
        self.state().phase = Phase::Answering;
    }

    /// The last of an answer has been taken.
    pub fn answered(&self) {
        let mut state = self.state();
        if state.phase == Phase::Answering {
            (state.phase, state.since) = (Phase::Idle, Instant::now());
        }
    }

    /// The connection is given to another protocol.
    pub fn upgraded(&self) {
        self.state().phase = Phase::Upgraded;
    }

    /// Whether what is written now is no answer to a request that was understood.
    pub fn is_between_requests(&self) -> bool {
        matches!(self.state().phase, Phase::Opened | Phase::Head | Phase::Idle)
    }

    /// Notes that the time is up.
    pub fn expire(&self) {
        self.state().expired = true;
    }

    /// Whether the time is up, and if so whether in the middle of a request's head.
    pub fn expired(&self) -> Option<bool> {
        let state = self.state();
        state.expired.then_some(state.phase == Phase::Head)
    }

    fn state(&self) -> MutexGuard<'_, PhaseState> {
        // Nothing panics while holding it.
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
