//! How much is measured. Some numbers can be changed by the environment, for short runs.

use std::time::Duration;

/// Connections that register and rename customers before the measurement.
pub const PREPARING_CONNECTIONS: usize = 16;
/// Customers that are renamed: a multiple of 32.
pub const WARM_CUSTOMERS: usize = 640;
/// Customers whose new names are polled.
pub const PROBED_CUSTOMERS: usize = 64;
/// The table of the product's customers.
pub const READ_MODEL: &str = "customers_v2";
/// Before each measured load.
pub const WARM_UP: Duration = Duration::from_millis(500);
/// Of PostGraphile for each kind of request before the first round, because Node compiles what runs often.
pub const PEER_WARM_UP: Duration = Duration::from_secs(5);
/// The share of the measured renames a second at which visibility is measured.
pub const HALF_LOAD: f64 = 0.5;

/// Rounds, each of which measures every system once.
pub fn rounds() -> usize {
    number("ANNALS_BENCH_ROUNDS", 5)
}

/// The time of one load.
pub fn load_duration() -> Duration {
    Duration::from_secs(number("ANNALS_BENCH_SECONDS", 3) as u64)
}

/// Customers of the tenant before the measurement.
pub fn customers() -> usize {
    number("ANNALS_BENCH_CUSTOMERS", 12_800).next_multiple_of(PREPARING_CONNECTIONS).max(1_600)
}

/// Versions of the old customer before the measurement.
pub fn old_versions() -> usize {
    number("ANNALS_BENCH_OLD_VERSIONS", 2_000)
}

#[expect(clippy::disallowed_methods, reason = "the measurement has no settings file")]
fn number(name: &str, default: usize) -> usize {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).filter(|number| *number > 0).unwrap_or(default)
}
