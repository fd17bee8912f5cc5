//! The one home of "now". Rules take no clock: time comes to them with the command or the event.

use chrono::{DateTime, SubsecRound, Utc};

/// The current time in UTC, cut to microseconds, which is what the log stores.
#[expect(clippy::disallowed_methods, reason = "this is the one home of the clock")]
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}
