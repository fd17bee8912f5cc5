//! The backoff of rejected steps.

use std::time::Duration;

/// Number of attempts, and the waits between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetrySettings {
    /// The wait after the first rejection.
    pub first: Duration,
    /// Each wait is this many times the wait before it.
    pub factor: u32,
    /// The maximum wait.
    pub cap: Duration,
    /// Rejections after which the step becomes a dead letter.
    pub max_attempts: u32,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self { first: Duration::from_millis(200), factor: 2, cap: Duration::from_mins(1), max_attempts: 8 }
    }
}

impl RetrySettings {
    /// The wait after `attempts` rejections, without jitter.
    fn full(&self, attempts: u32) -> Duration {
        let grown = self.factor.saturating_pow(attempts.saturating_sub(1).min(31));
        self.first.saturating_mul(grown).min(self.cap)
    }

    /// The wait after `attempts` rejections: random between half of the full wait and all of it, so that steps which
    /// failed together are not retried together.
    pub fn wait(&self, attempts: u32) -> Duration {
        self.full(attempts).mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap() {
        let settings = RetrySettings::default();
        let full = |attempts| settings.full(attempts).as_millis();
        assert_eq!([1, 2, 3, 8, 9, 10, 1_000].map(full), [200, 400, 800, 25_600, 51_200, 60_000, 60_000]);
    }

    #[test]
    fn jitter_stays_within_half_and_all_of_the_wait() {
        let settings = RetrySettings::default();
        for _ in 0..200 {
            let wait = settings.wait(3);
            assert!(wait >= Duration::from_millis(400) && wait <= Duration::from_millis(800), "{wait:?}");
        }
    }
}
