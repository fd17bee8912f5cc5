//! The waits between attempts after outages.

use std::time::Duration;

/// First and longest wait after a failure.
const BACKOFF_RANGE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// The wait after `failures` failures in a row; zero after none.
pub(super) fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF_RANGE;
    match failures.checked_sub(1) {
        Some(doublings) => first.saturating_mul(2u32.saturating_pow(doublings.min(10))).min(longest),
        None => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound() {
        assert_eq!(backoff(0), Duration::ZERO);
        assert_eq!(backoff(1), Duration::from_millis(50));
        assert_eq!(backoff(3), Duration::from_millis(200));
        assert_eq!(backoff(60), Duration::from_secs(5));
    }
}
