//! How long and how much is measured.

use std::time::Duration;

/// Writers at a time.
pub const CONCURRENCY: [usize; 3] = [1, 16, 128];
/// Streams written to, shared out among the writers.
pub const STREAMS: usize = 1_000;
pub const ROUNDS: usize = 3;
pub const WARM_UP: Duration = Duration::from_millis(700);
pub const MEASURE: Duration = Duration::from_secs(3);
