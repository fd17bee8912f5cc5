//! How events are delivered; the binary reads it from the configuration.

use std::time::Duration;

use fairness::Limits;

/// Endpoints of one tenant that wait for a turn; those beyond are found by the next look.
const QUEUED_REQUESTS_MAX: usize = 10_000;

/// Settings of the deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Endpoints may be plain HTTP and may stand at addresses that are not public. For development.
    pub allow_private_addresses: bool,
    /// How long an endpoint may take to answer.
    pub timeout: Duration,
    /// Requests at a time of one tenant.
    pub max_concurrent_requests_per_tenant: usize,
    /// Requests at a time in all.
    pub requests: usize,
    /// The wait after the first failure; it doubles with every further one.
    pub initial_delay: Duration,
    /// The longest wait.
    pub max_delay: Duration,
    /// How long a delivery is tried until it is given up.
    pub retry_for: Duration,
    /// After how long of nothing but failures an endpoint is disabled.
    pub disable_after: Duration,
    /// Deliveries to one endpoint that may have been given up and wait for somebody; with so many it is disabled.
    pub max_dead_letters_per_endpoint: u64,
}

impl WebhookSettings {
    /// How tenants share the requests: each up to its own number, and a quarter is kept for tenants that have none under
    /// way, so that tenants whose endpoints hang do not hold up the others.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            permits: self.requests,
            permits_per_key: self.max_concurrent_requests_per_tenant,
            reserved: self.requests / 4,
            waiting: QUEUED_REQUESTS_MAX,
            waiting_total: usize::MAX,
        }
    }

    /// The wait after so many failed attempts, without jitter.
    fn full(&self, attempts: u32) -> Duration {
        let grown = 2_u32.saturating_pow(attempts.saturating_sub(1).min(31));
        self.initial_delay.saturating_mul(grown).min(self.max_delay)
    }

    /// The wait after so many failed attempts: between half of the full wait and all of it, so that deliveries which failed
    /// together do not come back together; longer where the endpoint asked for that, up to the longest.
    pub fn wait(&self, attempts: u32, asked: Option<Duration>) -> Duration {
        let wait = self.full(attempts).mul_f64(rand::random_range(0.5..=1.0));
        asked.map_or(wait, |asked| asked.min(self.max_delay).max(wait))
    }
}

#[cfg(test)]
pub mod testing {
    use super::*;

    /// The settings of `config.default.toml`.
    pub const DEFAULTS: WebhookSettings = WebhookSettings {
        allow_private_addresses: false,
        timeout: Duration::from_secs(15),
        max_concurrent_requests_per_tenant: 8,
        requests: 256,
        initial_delay: Duration::from_secs(5),
        max_delay: Duration::from_hours(6),
        retry_for: Duration::from_hours(72),
        disable_after: Duration::from_hours(120),
        max_dead_letters_per_endpoint: 10_000,
    };
}

#[cfg(test)]
mod tests {
    use super::testing::DEFAULTS;
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_cover_three_days_with_few_attempts() {
        let full = |attempts| DEFAULTS.full(attempts).as_secs();
        assert_eq!([1, 2, 3, 13, 14, 1_000].map(full), [5, 10, 20, 20_480, 21_600, 21_600]);
        let mut elapsed = Duration::ZERO;
        let attempts = (1..).take_while(|attempts| {
            elapsed += DEFAULTS.full(*attempts);
            elapsed <= DEFAULTS.retry_for
        });
        assert_eq!(attempts.count(), 23);
    }

    #[test]
    fn jitter_stays_within_bounds_and_an_endpoint_may_ask_for_more() {
        for _ in 0..200 {
            let wait = DEFAULTS.wait(3, None);
            assert!((Duration::from_secs(10)..=Duration::from_secs(20)).contains(&wait), "{wait:?}");
        }
        assert_eq!(DEFAULTS.wait(1, Some(Duration::from_mins(2))), Duration::from_mins(2));
        assert_eq!(DEFAULTS.wait(1, Some(Duration::from_hours(100))), Duration::from_hours(6));
        assert!(DEFAULTS.wait(20, Some(Duration::from_secs(1))) > Duration::from_hours(2));
    }
}
