//! Rules that always hold, unless the data were changed behind the product or the product has a bug.
//!
//! A violation is an error of the tenant's work, `StoreError::InvariantViolated`.
//! That work stops for [`VIOLATION_RETRY_INTERVAL`] and is tried again; other tenants continue.
//! The data are neither used nor repaired.

use std::fmt;
use std::time::Duration;

/// How long the work of a tenant stops after a violation. Then it is tried again.
pub const VIOLATION_RETRY_INTERVAL: Duration = Duration::from_mins(1);

/// A rule that always holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Invariant {
    /// The positions of a log have no gap.
    LogPositions,
    /// The versions of a stream have no gap.
    StreamVersions,
    /// A checkpoint is not beyond the head of its log.
    CheckpointWithinHead,
    /// A page of the relay has contiguous positions right after the acknowledged position.
    RelayPage,
    /// The receipt of a reaction leads to a recorded reaction.
    ReactionRecorded,
    /// The command id of a step derives from its instance and label.
    StepCommandId,
}

impl Invariant {
    /// The name, as in the label of `annals_invariant_violations_total`.
    pub fn name(self) -> &'static str {
        match self {
            Self::LogPositions => "log_positions",
            Self::StreamVersions => "stream_versions",
            Self::CheckpointWithinHead => "checkpoint_within_head",
            Self::RelayPage => "relay_page",
            Self::ReactionRecorded => "reaction_recorded",
            Self::StepCommandId => "step_command_id",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The first of the numbers `after + 1`, `after + 2`, ... that is missing in `numbers`, before the last of them.
pub fn first_gap(after: u64, numbers: impl IntoIterator<Item = u64>) -> Option<u64> {
    (after + 1..).zip(numbers).find(|(next, number)| next != number).map(|(next, _)| next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_the_first_number_that_does_not_follow() {
        assert_eq!(first_gap(4, [5, 6, 7]), None);
        assert_eq!(first_gap(4, []), None);
        assert_eq!(first_gap(4, [6]), Some(5));
        assert_eq!(first_gap(0, [1, 2, 4]), Some(3));
        assert_eq!(first_gap(0, [1, 2, 2]), Some(3), "a repetition");
    }
}
