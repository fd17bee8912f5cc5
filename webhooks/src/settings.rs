//! Settings of the deliveries; the binary reads them from the configuration.

use std::time::Duration;

use fairness::Limits;

/// Maximum queued endpoints of one tenant; the next poll finds the rest.
const QUEUED_REQUESTS_MAX: usize = 10_000;

/// Settings of the deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Allows plain HTTP and addresses that are not public. For development.
    pub allow_private_addresses: bool,
    /// Timeout of a request.
    pub timeout: Duration,
    /// Maximum concurrent requests of one tenant.
    pub max_concurrent_requests_per_tenant: usize,
    /// Maximum concurrent requests of all tenants.
    pub requests: usize,
    /// The wait after the first failure; it doubles with every further one.
    pub initial_delay: Duration,
    /// The maximum wait.
    pub max_delay: Duration,
    /// How long a delivery is retried before it becomes a dead letter.
    pub retry_for: Duration,
    /// An endpoint that has only failed for this long is disabled.
    pub disable_after: Duration,
    /// Maximum dead letters of one endpoint. At the maximum the endpoint is disabled.
    pub max_dead_letters_per_endpoint: u64,
}

impl WebhookSettings {
    /// The shares of tenants: each has its own maximum, and a quarter is reserved for tenants without a running
    /// request. So tenants with slow endpoints do not delay the others.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            permits: self.requests,
            permits_per_key: self.max_concurrent_requests_per_tenant,
            reserved: self.requests / 4,
            waiting: QUEUED_REQUESTS_MAX,
            waiting_total: usize::MAX,
        }
    }

    /// The wait after `attempts` failed attempts, without jitter.
    fn full(&self, attempts: u32) -> Duration {
        let grown = 2_u32.saturating_pow(attempts.saturating_sub(1).min(31));
        self.initial_delay.saturating_mul(grown).min(self.max_delay)
    }

    /// The wait after `attempts` failed attempts: random between half of the full wait and all of it, so that
    /// deliveries which failed together are not retried together. It is longer if the endpoint asked for that, up to
    /// `max_delay`.
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
