//! Settings of the saga engine.

use std::time::Duration;

use super::retry::RetrySettings;

/// Settings of the saga engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SagaSettings {
    /// Attempts and waits of rejected steps.
    pub retry: RetrySettings,
    /// Maximum commands of one saga that are sent at once, over all tenants.
    pub max_concurrent_steps: usize,
    /// How often due steps are polled.
    pub poll: Duration,
}

impl Default for SagaSettings {
    fn default() -> Self {
        Self { retry: RetrySettings::default(), max_concurrent_steps: 64, poll: Duration::from_millis(200) }
    }
}
