//! The events that every saga instance records in its stream `saga.<saga>/<instance>`. The engine writes them under the
//! types `saga.<saga>.<fact>.v1`. The saga is known only at run time, so there is no event enum.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::{EventType, InvalidValue, StreamName};

/// The saga reacted to an event: where it stands now and which commands it wants. Recorded before any is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// What it keeps for later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
    /// The timers it sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timers: Vec<SagaTimer>,
    /// The timers it wants no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cancelled_timers: Vec<String>,
}

/// One command that a saga wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SagaStep {
    /// The step's label, unique within the instance; command id and target id derive from it.
    pub step: String,
    /// The command, as crate `commands` serialises it.
    pub command: serde_json::Value,
    /// The command that takes this one back, should the saga fail later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensation: Option<serde_json::Value>,
}

/// A timer of a saga, and what is recorded when its time has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SagaTimer {
    /// Its label, unique within the instance.
    pub timer: String,
    /// When its time comes.
    pub due: DateTime<Utc>,
}

/// A command of the saga took effect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SagaStepCompleted {
    /// The step's label.
    pub step: String,
    /// The command's id.
    pub command_id: Uuid,
}

/// A command of the saga was refused as often as the saga tries; it waits in the dead letters for an operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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

/// An operator decided to go on without a step that stood in the dead letters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SagaStepDiscarded {
    /// The step's label.
    pub step: String,
    /// The command's id.
    pub command_id: Uuid,
    /// The dead letter that tells the whole story.
    pub dead_letter: Uuid,
}

/// A step was refused to the last, and what was done before is taken back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SagaCompensationStarted {
    /// The label of the step that was refused, or of one that took effect when the saga was failing already.
    pub step: String,
    /// How often it was refused.
    pub attempts: u32,
    /// The code of the last refusal; empty where there was none.
    pub code: String,
    /// The compensating commands, taken one after the other in this order: the reverse of how the steps took effect.
    pub steps: Vec<SagaStep>,
}

/// The kinds of events of saga instances: the last part of the type's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SagaFact {
    /// [`SagaReacted`]
    Reacted,
    /// [`SagaStepCompleted`]
    StepCompleted,
    /// [`SagaStepFailed`]
    StepFailed,
    /// [`SagaStepDiscarded`]
    StepDiscarded,
    /// [`SagaTimer`]
    TimerFired,
    /// [`SagaCompensationStarted`]
    CompensationStarted,
}

impl SagaFact {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Reacted,
        Self::StepCompleted,
        Self::StepFailed,
        Self::StepDiscarded,
        Self::TimerFired,
        Self::CompensationStarted,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Reacted => "reacted",
            Self::StepCompleted => "step_completed",
            Self::StepFailed => "step_failed",
            Self::StepDiscarded => "step_discarded",
            Self::TimerFired => "timer_fired",
            Self::CompensationStarted => "compensation_started",
        }
    }

    /// The event type of this kind for a saga, such as `saga.customer_onboarding.reacted.v1`.
    ///
    /// # Errors
    /// [`InvalidValue`] if the name of the saga is not a valid token.
    pub fn event_type(self, process: &str) -> Result<EventType, InvalidValue> {
        EventType::parse(&format!("saga.{process}.{}.v1", self.name()))
    }

    /// The kind of an event type of a saga; `None` for types of other sagas or aggregates.
    pub fn of(event_type: &EventType, process: &str) -> Option<Self> {
        let name = event_type.as_str().strip_prefix("saga.")?.strip_prefix(process)?;
        let name = name.strip_prefix('.')?.strip_suffix(".v1")?;
        Self::ALL.into_iter().find(|fact| fact.name() == name)
    }
}

/// The stream of one instance of a saga.
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
        for fact in SagaFact::ALL {
            let event_type = fact.event_type("customer_onboarding").expect("a valid type");
            assert_eq!(SagaFact::of(&event_type, "customer_onboarding"), Some(fact));
            assert_eq!(SagaFact::of(&event_type, "customer"), None);
        }
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
            steps: vec![SagaStep {
                step: "register".to_owned(),
                command: serde_json::json!({"a": 1}),
                compensation: None,
            }],
            data: None,
            timers: Vec::new(),
            cancelled_timers: Vec::new(),
        };
        let bytes = serde_json::to_vec(&reacted).expect("serialises");
        assert_eq!(serde_json::from_slice::<SagaReacted>(&bytes).expect("reads"), reacted);
    }
}
