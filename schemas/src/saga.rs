//! The facts that every saga instance records in its stream `saga.<process>/<instance>`. The engine writes them under
//! `saga.<process>.<fact>.v1`; the process is known only while running, so they have no event enum.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::{EventType, InvalidValue, StreamName};

/// The saga reacted to an event: where it stands now and which commands it wants. Recorded before any is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SagaReacted {
    /// Id of the event that set it off.
    pub trigger_event: Uuid,
    /// Its position in the same log.
    pub trigger_position: u64,
    /// Its type.
    pub trigger_type: EventType,
    /// Where the instance stands after it, in a word.
    pub state: String,
    /// The commands it wants, in this order; each is independent of the others.
    pub steps: Vec<SagaStep>,
}

/// One command that a saga wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SagaStep {
    /// The step's label, unique within the instance; command id and target id derive from it.
    pub step: String,
    /// The command, as crate `commands` serialises it.
    pub command: serde_json::Value,
}

/// A command of the saga took effect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SagaStepCompleted {
    /// The step's label.
    pub step: String,
    /// The command's id.
    pub command_id: Uuid,
}

/// A command of the saga was refused as often as the saga tries; it waits in the dead letters for an operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SagaStepFailed {
    /// The step's label.
    pub step: String,
    /// The command's id.
    pub command_id: Uuid,
    /// How often it was refused.
    pub attempts: u32,
    /// The code of the last refusal.
    pub code: String,
    /// The dead letter that tells the whole story.
    pub dead_letter: Uuid,
}

/// What saga instances record, as the last part of the type's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SagaFact {
    /// [`SagaReacted`]
    Reacted,
    /// [`SagaStepCompleted`]
    StepCompleted,
    /// [`SagaStepFailed`]
    StepFailed,
}

impl SagaFact {
    /// The event type of this fact for a process, such as `saga.customer_onboarding.reacted.v1`.
    pub fn event_type(self, process: &str) -> Result<EventType, InvalidValue> {
        let fact = match self {
            Self::Reacted => "reacted",
            Self::StepCompleted => "step_completed",
            Self::StepFailed => "step_failed",
        };
        EventType::parse(&format!("saga.{process}.{fact}.v1"))
    }
}

/// The stream of one instance of a process.
pub fn instance_stream(process: &str, instance: Uuid) -> StreamName {
    StreamName::new(&format!("saga.{process}"), instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_named_after_the_process() {
        let event_type = SagaFact::Reacted.event_type("customer_onboarding").expect("a valid type");
        assert_eq!(event_type.as_str(), "saga.customer_onboarding.reacted.v1");
        assert!(SagaFact::StepFailed.event_type("no such.>").is_err());
    }

    #[test]
    fn an_instance_has_a_stream_of_its_own() {
        let stream = instance_stream("customer_onboarding", Uuid::nil());
        assert_eq!(stream.as_str(), "saga.customer_onboarding/00000000-0000-0000-0000-000000000000");
        assert!(StreamName::parse(stream.as_str()).is_ok());
    }

    #[test]
    fn a_reaction_reads_back_as_it_was_written() {
        let reacted = SagaReacted {
            trigger_event: Uuid::nil(),
            trigger_position: 7,
            trigger_type: EventType::parse("identity.user.registered.v1").expect("a valid type"),
            state: "onboarding".to_owned(),
            steps: vec![SagaStep { step: "register".to_owned(), command: serde_json::json!({"a": 1}) }],
        };
        let bytes = serde_json::to_vec(&reacted).expect("serialises");
        assert_eq!(serde_json::from_slice::<SagaReacted>(&bytes).expect("reads"), reacted);
    }
}
