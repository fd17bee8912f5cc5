//! The only place that reads the current time. Rules have no clock: they get the time from the command or the event.

use chrono::{DateTime, SubsecRound, Utc};

/// The current time in UTC, truncated to microseconds, the precision of the log.
#[expect(clippy::disallowed_methods, reason = "this is the one home of the clock")]
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}
