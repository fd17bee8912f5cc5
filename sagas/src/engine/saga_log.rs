//! The events about steps in the streams of their instances. Each has its own idempotency id, so it is recorded once.

use schemas::engine::{Metadata, ids};
use schemas::saga::{
    SagaCompensationStarted, SagaFact, SagaStep, SagaStepCompleted, SagaStepDiscarded, SagaStepFailed,
    SagaTimer, instance_stream,
};
use serde::Serialize;
use store::{DeploymentKey, ExpectedVersion, IdempotencyClaim, NewEvent, StreamAppend};
use uuid::Uuid;

use super::process::{actor, command_id};
use super::rows::{RejectedStep, StepRow};

/// Builds the appends of one saga.
pub(super) struct SagaLog<'a> {
    pub(super) saga: &'static str,
    pub(super) key: &'a DeploymentKey,
}

impl SagaLog<'_> {
    fn command_id(&self, row: &StepRow) -> Uuid {
        command_id(self.saga, row.instance, &row.step)
    }

    pub(super) fn completed(&self, row: &StepRow) -> StreamAppend {
        let completed = SagaStepCompleted { step: row.step.clone(), command_id: self.command_id(row) };
        self.append(row, SagaFact::StepCompleted, "completed", &completed)
    }

    /// The append for a step that failed for good; `None` while attempts are left.
    pub(super) fn failed(&self, row: &StepRow, rejected: &RejectedStep) -> Option<StreamAppend> {
        let failed = SagaStepFailed {
            step: row.step.clone(),
            command_id: self.command_id(row),
            attempts: rejected.attempts,
            code: rejected.history.last().map(|failure| failure.code.clone()).unwrap_or_default(),
            dead_letter: rejected.dead_letter?,
        };
        // After a retry the step may fail again, which is a separate event.
        let label = format!("failed/{}", rejected.history.len());
        Some(self.append(row, SagaFact::StepFailed, &label, &failed))
    }

    pub(super) fn discarded(&self, row: &StepRow, dead_letter: Uuid) -> StreamAppend {
        let discarded =
            SagaStepDiscarded { step: row.step.clone(), command_id: self.command_id(row), dead_letter };
        self.append(row, SagaFact::StepDiscarded, "discarded", &discarded)
    }

    /// Expects the version that was read: the instance may have cancelled the timer since.
    pub(super) fn fired(&self, row: &StepRow, timer: &SagaTimer, version: u64) -> StreamAppend {
        let append = self.append(row, SagaFact::TimerFired, "fired", timer);
        StreamAppend { expected: ExpectedVersion::Exact(version), ..append }
    }

    /// Expects the version that was read: `steps` are those that had taken effect by then.
    pub(super) fn compensation_started(
        &self,
        row: &StepRow,
        code: String,
        steps: Vec<SagaStep>,
        version: u64,
    ) -> StreamAppend {
        let attempts = if code.is_empty() { 0 } else { row.attempts + 1 };
        let started = SagaCompensationStarted { step: row.step.clone(), attempts, code, steps };
        let append = self.append(row, SagaFact::CompensationStarted, "compensation", &started);
        StreamAppend { expected: ExpectedVersion::Exact(version), ..append }
    }

    fn append(&self, row: &StepRow, fact: SagaFact, label: &str, payload: &impl Serialize) -> StreamAppend {
        let step_command = self.command_id(row);
        let command_id = ids::derived_id(step_command, label);
        let digest = self.key.mac("saga-step", &[step_command.as_bytes(), label.as_bytes()]);
        let event = NewEvent {
            event_id: None,
            event_type: fact.event_type(self.saga).expect("checked when the process was started"),
            payload: serde_json::to_vec(payload).expect("a fact serialises").into(),
            subject_keys: Vec::new(),
        };
        let metadata = Metadata {
            correlation_id: row.correlation_id,
            causation_id: Some(row.trigger_event),
            traceparent: row.payload.traceparent.clone(),
            request_id: row.payload.request_id.clone(),
            ..Metadata::new(actor(self.saga), command_id)
        };
        let stream = instance_stream(self.saga, row.instance);
        StreamAppend {
            claim: Some(IdempotencyClaim::new(command_id, digest)),
            ..StreamAppend::new(stream, ExpectedVersion::Any, vec![event], metadata)
        }
    }
}
