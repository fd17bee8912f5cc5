//! The rules of a subject whose erasure was requested.

use access::ErrorCode;
use schemas::privacy::subject::{
    ErasureStatus, RecordErasure, RequestErasure, SubjectErased, SubjectErasureRequested, SubjectEvent,
};
use serde::{Deserialize, Serialize};

use crate::engine::decider::{Decider, Rejection};

crate::commands! {
    /// The commands of a subject.
    pub enum SubjectCommand {
        creates Request(RequestErasure);
        changes Record(RecordErasure);
    }
}

/// Why a subject command was rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectRejection {
    /// The erasure was not requested.
    #[error("the erasure was not asked for")]
    NotRequested,
    /// The subject is an administrator, perhaps the last one.
    #[error("administers the tenant: another administrator has to take the role first")]
    SubjectIsAdmin,
}

impl Rejection for SubjectRejection {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NotRequested => ErrorCode::ErasureNotRequested,
            Self::SubjectIsAdmin => ErrorCode::SubjectIsAdmin,
        }
    }
}

/// A subject, folded from its events.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Subject {
    /// False before the first event.
    pub requested: bool,
    /// The state of its erasure.
    pub status: ErasureStatus,
}

impl Decider for Subject {
    type Command = SubjectCommand;
    type Event = SubjectEvent;
    type Error = SubjectRejection;

    fn apply(&mut self, event: SubjectEvent) {
        match event {
            SubjectEvent::ErasureRequested(_) => self.requested = true,
            SubjectEvent::Erased(_) => self.status = ErasureStatus::Erased,
        }
    }

    fn decide(&self, command: SubjectCommand) -> Result<Vec<SubjectEvent>, SubjectRejection> {
        match (self.requested, self.status, command) {
            (false, _, SubjectCommand::Request(RequestErasure { reason })) => {
                Ok(vec![SubjectEvent::ErasureRequested(SubjectErasureRequested { reason })])
            }
            (true, _, SubjectCommand::Request(_))
            | (true, ErasureStatus::Erased, SubjectCommand::Record(_)) => Ok(Vec::new()),
            (false, _, SubjectCommand::Record(_)) => Err(SubjectRejection::NotRequested),
            (true, ErasureStatus::Requested, SubjectCommand::Record(done)) => {
                let RecordErasure { key, streams, scrubbed_to } = done;
                Ok(vec![SubjectEvent::Erased(SubjectErased { key, streams, scrubbed_to })])
            }
        }
    }

    fn exists(&self) -> bool {
        self.requested
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::{AggregateTestExecutor, TestFramework};

    use super::*;
    use crate::CqrsAggregate;

    fn requested() -> SubjectEvent {
        SubjectEvent::ErasureRequested(SubjectErasureRequested { reason: None })
    }

    fn record() -> SubjectCommand {
        RecordErasure { key: None, streams: Vec::new(), scrubbed_to: 7 }.into()
    }

    fn erased() -> SubjectEvent {
        SubjectEvent::Erased(SubjectErased { key: None, streams: Vec::new(), scrubbed_to: 7 })
    }

    fn given(events: Vec<SubjectEvent>) -> AggregateTestExecutor<CqrsAggregate<Subject>> {
        TestFramework::with(()).given(events)
    }

    #[test]
    fn an_erasure_is_asked_for_once() {
        let request = SubjectCommand::from(RequestErasure { reason: None });
        given(vec![]).when(request.clone()).then_expect_events(vec![requested()]);
        given(vec![requested()]).when(request.clone()).then_expect_events(vec![]);
        given(vec![requested(), erased()]).when(request).then_expect_events(vec![]);
    }

    #[test]
    fn it_is_recorded_once_and_only_where_it_was_asked_for() {
        given(vec![]).when(record()).then_expect_error(SubjectRejection::NotRequested);
        given(vec![requested()]).when(record()).then_expect_events(vec![erased()]);
        given(vec![requested(), erased()]).when(record()).then_expect_events(vec![]);
    }
}
