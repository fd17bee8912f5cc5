//! Limits log lines that clients could cause in any number.

use std::time::Duration;

use tokio::time::Instant;

/// Allows a number of lines in each interval and counts the others.
pub struct RateLimitedLog {
    lines_max: u32,
    interval: Duration,
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl RateLimitedLog {
    /// At most `lines_max` lines in each `interval`. The first ones may be written at once.
    pub fn new(lines_max: u32, interval: Duration) -> Self {
        Self { lines_max, interval, since: Instant::now(), lines: 0, left_out: 0 }
    }

    /// Asks to write a line. `Some` allows it and holds the number of lines that were suppressed before it.
    pub fn acquire(&mut self) -> Option<u64> {
        let now = Instant::now();
        if now >= self.since + self.interval {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines == self.lines_max {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_log_that_clients_can_fill_counts_what_it_leaves_out() {
        let interval = Duration::from_secs(1);
        let mut log = RateLimitedLog::new(2, interval);
        let turns: Vec<_> = (0..5).map(|_| log.acquire()).collect();
        assert_eq!(turns, [Some(0), Some(0), None, None, None]);
        tokio::time::advance(interval).await;
        let turns: Vec<_> = (0..3).map(|_| log.acquire()).collect();
        assert_eq!(turns, [Some(3), Some(0), None]);
    }
}
