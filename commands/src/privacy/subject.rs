//! The rules of a subject whose erasure was requested.

use access::ErrorCode;
use describe::rejections;
use schemas::privacy::subject::{ErasureStatus, SubjectCommand, SubjectEvent};
use serde::{Deserialize, Serialize};

use crate::engine::decider::{Decider, Facts};

/// Why a subject command was rejected.
#[rejections]
pub enum SubjectRejection {
    #[rejection(ErasureNotRequested, "the erasure was not asked for")]
    NotRequested,
    /// The subject is an administrator, perhaps the last one.
    #[rejection(SubjectIsAdmin, "administers the tenant: another administrator has to take the role first")]
    SubjectIsAdmin,
}

/// What the rules know of a subject.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Subject {
    /// Whether its erasure was requested.
    pub requested: bool,
    /// The state of its erasure.
    pub status: ErasureStatus,
}

impl Decider for Subject {
    type Command = SubjectCommand;
    type Event = SubjectEvent;
    type Rejection = SubjectRejection;

    // Both commands may come to an aggregate that exists.
    const EXISTS: ErrorCode = ErrorCode::Invalid;

    fn decide(&self, command: SubjectCommand, _facts: &Facts) -> Result<Vec<SubjectEvent>, SubjectRejection> {
        use SubjectCommand as Command;

        let event = match (self.status, command) {
            (_, Command::RequestErasure { .. }) if self.requested => return Ok(vec![]),
            (_, Command::RequestErasure { reason }) => SubjectEvent::ErasureRequested { reason },
            (_, Command::RecordErasure { .. }) if !self.requested => {
                return Err(SubjectRejection::NotRequested);
            }
            (ErasureStatus::Erased, Command::RecordErasure { .. }) => return Ok(vec![]),
            (ErasureStatus::Requested, Command::RecordErasure { key, streams, scrubbed_to }) => {
                SubjectEvent::Erased { key, streams, scrubbed_to }
            }
        };
        Ok(vec![event])
    }

    fn apply(&mut self, event: SubjectEvent) {
        match event {
            SubjectEvent::ErasureRequested { .. } => self.requested = true,
            SubjectEvent::Erased { .. } => self.status = ErasureStatus::Erased,
        }
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::{AggregateTestExecutor, TestFramework};

    use super::*;
    use crate::{CqrsAggregate, DecideError};

    fn requested() -> SubjectEvent {
        SubjectEvent::ErasureRequested { reason: None }
    }

    fn record() -> SubjectCommand {
        SubjectCommand::RecordErasure { key: None, streams: Vec::new(), scrubbed_to: 7 }
    }

    fn erased() -> SubjectEvent {
        SubjectEvent::Erased { key: None, streams: Vec::new(), scrubbed_to: 7 }
    }

    fn given(events: Vec<SubjectEvent>) -> AggregateTestExecutor<CqrsAggregate<Subject>> {
        TestFramework::with(()).given(events)
    }

    #[test]
    fn an_erasure_is_asked_for_once() {
        let request = SubjectCommand::RequestErasure { reason: None };
        given(vec![]).when(request.clone()).then_expect_events(vec![requested()]);
        given(vec![requested()]).when(request.clone()).then_expect_events(vec![]);
        given(vec![requested(), erased()]).when(request).then_expect_events(vec![]);
    }

    #[test]
    fn it_is_recorded_once_and_only_where_it_was_asked_for() {
        given(vec![]).when(record()).then_expect_error(DecideError::NotFound);
        given(vec![requested()]).when(record()).then_expect_events(vec![erased()]);
        given(vec![requested(), erased()]).when(record()).then_expect_events(vec![]);
    }
}
