//! When a refused step is tried again.

use std::time::Duration;

/// How often and how soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetrySettings {
    /// The wait after the first refusal.
    pub first: Duration,
    /// By how much each wait is longer than the one before.
    pub factor: u32,
    /// The longest wait.
    pub cap: Duration,
    /// Refusals until the step stands in the dead letters.
    pub max_attempts: u32,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self { first: Duration::from_millis(200), factor: 2, cap: Duration::from_mins(1), max_attempts: 8 }
    }
}

impl RetrySettings {
    /// The wait after so many refusals, without jitter.
    fn full(&self, attempts: u32) -> Duration {
        let grown = self.factor.saturating_pow(attempts.saturating_sub(1).min(31));
        self.first.saturating_mul(grown).min(self.cap)
    }

    /// The wait after so many refusals: between half of the full wait and all of it, so that steps which failed together
    /// do not come back together.
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
