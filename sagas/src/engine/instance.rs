//! A saga instance, folded from its stream: its state, its steps and its timers.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use schemas::engine::sealed::{ERASED, OPEN, SEALED};
use schemas::engine::{RecordedEvent, Sealed};
use schemas::saga::{
    SagaCompensationStarted, SagaFact, SagaReacted, SagaStep, SagaStepCompleted, SagaStepDiscarded,
    SagaStepFailed, SagaTimer, instance_stream,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use store::{Invariant, StoreError, TenantStore};
use uuid::Uuid;

use super::process::{command_id, compensation_label};

/// State of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepState {
    /// It is wanted and has not taken effect.
    Pending,
    /// Its command took effect.
    Completed,
    /// It is a dead letter.
    Failed,
    /// An operator discarded it.
    Discarded,
    /// It was rejected in its last attempt, and the completed steps are compensated.
    RetriesExhausted,
}

/// State of a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerState {
    /// It fires at this time.
    Set(DateTime<Utc>),
    /// It has fired.
    Fired,
    /// A later reaction cancelled it.
    Cancelled,
}

/// An instance, folded from its stream. A new one is the default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Instance {
    /// The version of its stream.
    pub version: u64,
    /// Its state after the last reaction; empty before the first.
    pub state: String,
    /// The data of the last reaction that stored any.
    pub data: Option<serde_json::Value>,
    /// State of its steps, by label.
    pub steps: BTreeMap<String, StepState>,
    /// State of its timers, by label.
    pub timers: BTreeMap<String, TimerState>,
    /// Its reactions, by the id of the event that triggered them.
    reactions: HashMap<Uuid, SagaReacted>,
    /// Compensating commands, by the label of the step.
    compensations: HashMap<String, serde_json::Value>,
    /// Labels of steps in the order in which they took effect.
    completed: Vec<String>,
    /// Compensations that were started, by the step whose failure started them.
    compensated: BTreeMap<String, Vec<SagaStep>>,
    /// The position of the first event whose command id does not derive from the instance and the label of the step.
    foreign_command_at: Option<u64>,
}

impl Instance {
    /// Reads and folds an instance's stream.
    ///
    /// # Errors
    /// A violation if the command id of a step does not derive from the instance and the label of the step.
    pub(super) async fn load(tenant: &TenantStore, process: &str, id: Uuid) -> Result<Self, StoreError> {
        let mut instance = Self::default();
        let stream = instance_stream(process, id);
        let mut events = Box::pin(tenant.read_stream(&stream, 1));
        while let Some(event) = events.try_next().await? {
            instance.apply(process, &event)?;
        }
        match instance.foreign_command_at {
            Some(position) => Err(tenant.violation(Invariant::StepCommandId, position)),
            None => Ok(instance),
        }
    }

    /// Folds the events of an instance.
    pub(super) fn folded(process: &str, facts: &[RecordedEvent]) -> Result<Self, StoreError> {
        let mut instance = Self::default();
        for fact in facts {
            instance.apply(process, fact)?;
        }
        Ok(instance)
    }

    fn apply(&mut self, process: &str, event: &RecordedEvent) -> Result<(), StoreError> {
        self.version = event.version;
        match SagaFact::of(&event.event_type, process) {
            Some(SagaFact::Reacted) => self.reacted(read(event)?),
            Some(SagaFact::StepCompleted) => {
                let SagaStepCompleted { step, command_id } = read(event)?;
                self.check_command_id(process, event, &step, command_id);
                self.completed.push(step.clone());
                self.steps.insert(step, StepState::Completed);
            }
            Some(SagaFact::StepFailed) => {
                let SagaStepFailed { step, command_id, .. } = read(event)?;
                self.check_command_id(process, event, &step, command_id);
                self.steps.insert(step, StepState::Failed);
            }
            Some(SagaFact::StepDiscarded) => {
                let SagaStepDiscarded { step, command_id, .. } = read(event)?;
                self.check_command_id(process, event, &step, command_id);
                self.steps.insert(step, StepState::Discarded);
            }
            Some(SagaFact::TimerFired) => {
                let SagaTimer { timer, .. } = read(event)?;
                self.timers.insert(timer, TimerState::Fired);
            }
            Some(SagaFact::CompensationStarted) => {
                let SagaCompensationStarted { step, steps, .. } = read(event)?;
                for compensation in &steps {
                    self.steps.insert(compensation.step.clone(), StepState::Pending);
                }
                if self.steps.get(&step) != Some(&StepState::Completed) {
                    self.steps.insert(step.clone(), StepState::RetriesExhausted);
                }
                self.compensated.insert(step, steps);
            }
            None => {}
        }
        Ok(())
    }

    fn check_command_id(&mut self, process: &str, event: &RecordedEvent, step: &str, id: Uuid) {
        let derived = event.stream.uuid().map(|instance| command_id(process, instance, step));
        if derived != Some(id) {
            self.foreign_command_at.get_or_insert(event.position);
        }
    }

    fn reacted(&mut self, reacted: SagaReacted) {
        self.state.clone_from(&reacted.state);
        if reacted.data.is_some() {
            self.data = reacted.data.clone().and_then(open_value);
        }
        for SagaStep { step, compensation, .. } in &reacted.steps {
            self.steps.entry(step.clone()).or_insert(StepState::Pending);
            if let Some(compensation) = compensation {
                self.compensations.entry(step.clone()).or_insert_with(|| compensation.clone());
            }
        }
        for SagaTimer { timer, due } in &reacted.timers {
            self.timers.entry(timer.clone()).or_insert(TimerState::Set(*due));
        }
        for timer in &reacted.cancelled_timers {
            self.timers
                .entry(timer.clone())
                .and_modify(|state| {
                    if matches!(state, TimerState::Set(_)) {
                        *state = TimerState::Cancelled;
                    }
                })
                .or_insert(TimerState::Cancelled);
        }
        self.reactions.insert(reacted.trigger_event, reacted);
    }

    /// Whether it compensates its completed steps.
    pub fn is_compensating(&self) -> bool {
        !self.compensated.is_empty()
    }

    /// The recorded reaction to an event, if any.
    pub(super) fn reaction_to(&self, event: Uuid) -> Option<&SagaReacted> {
        self.reactions.get(&event)
    }

    /// Whether the reaction to an event has a step with this label. `None` without a reaction.
    pub(super) fn has_step(&self, trigger: Uuid, step: &str) -> Option<bool> {
        Some(self.reaction_to(trigger)?.steps.iter().any(|wanted| wanted.step == step))
    }

    /// The command of a step as the reaction to an event recorded it; `None` if it cannot be decrypted.
    pub(super) fn command(&self, trigger: Uuid, step: &str) -> Option<Value> {
        let steps = &self.reaction_to(trigger)?.steps;
        open_value(steps.iter().find(|wanted| wanted.step == step)?.command.clone())
    }

    /// Whether any of its steps has a compensation.
    pub(super) fn can_compensate(&self) -> bool {
        !self.compensations.is_empty()
    }

    /// The compensations that the failure of a step started.
    pub(super) fn compensations_for(&self, step: &str) -> Option<&[SagaStep]> {
        self.compensated.get(step).map(Vec::as_slice)
    }

    /// The compensations of all completed steps, the last step first.
    pub(super) fn all_compensations(&self) -> Vec<SagaStep> {
        self.completed.iter().rev().filter_map(|step| self.compensation_for(step)).collect()
    }

    /// The compensation of a step, if it has one that was not started yet.
    pub(super) fn compensation_for(&self, step: &str) -> Option<SagaStep> {
        let label = compensation_label(step);
        let command = self.compensations.get(step)?.clone();
        let said = self.compensated.values().flatten().any(|compensation| compensation.step == label);
        (!said).then_some(SagaStep { step: label, command, compensation: None })
    }
}

/// Whether a recorded value is encrypted personal data.
pub(super) fn is_personal_data(value: &Value) -> bool {
    [OPEN, SEALED, ERASED].iter().any(|member| value.get(member).is_some())
}

/// A recorded value; `None` if its subject was erased.
pub(super) fn open_value(value: Value) -> Option<Value> {
    if !is_personal_data(&value) {
        return Some(value);
    }
    serde_json::from_value::<Sealed<Value>>(value).ok()?.open()
}

/// Parses the payload of a saga's own event.
pub(super) fn read<T: DeserializeOwned>(event: &RecordedEvent) -> Result<T, StoreError> {
    serde_json::from_slice(&event.payload).map_err(|error| {
        StoreError::Corrupt(format!("{} at version {} does not read: {error}", event.stream, event.version))
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use schemas::engine::{Actor, LogId, Metadata, clock};
    use serde_json::json;

    use super::*;

    const NAME: &str = "orders";

    fn folded(facts: &[(SagaFact, Value)]) -> Instance {
        let mut instance = Instance::default();
        for ((fact, payload), version) in facts.iter().zip(1..) {
            let event = RecordedEvent {
                log_id: LogId(Uuid::nil()),
                position: version,
                stream: instance_stream(NAME, Uuid::nil()),
                version,
                event_id: Uuid::from_u128(u128::from(version)),
                event_type: fact.event_type(NAME).expect("a valid type"),
                recorded_at: clock::now(),
                payload: Bytes::from(payload.to_string()),
                metadata: Metadata::new(Actor::system("test"), Uuid::nil()),
            };
            instance.apply(NAME, &event).expect("folds");
        }
        instance
    }

    fn reacted(trigger: u128, rest: Value) -> (SagaFact, Value) {
        let mut payload = json!({
            "trigger_event": Uuid::from_u128(trigger), "trigger_position": 1, "trigger_type": "a.b.c.v1",
            "state": format!("after {trigger}"), "steps": [],
        });
        for (key, value) in rest.as_object().expect("an object") {
            payload[key] = value.clone();
        }
        (SagaFact::Reacted, payload)
    }

    fn completed(step: &str) -> (SagaFact, Value) {
        (SagaFact::StepCompleted, json!({"step": step, "command_id": command_id(NAME, Uuid::nil(), step)}))
    }

    #[test]
    fn a_command_id_that_does_not_derive_from_its_step_is_found() {
        let foreign =
            |step: &str| (SagaFact::StepCompleted, json!({"step": step, "command_id": Uuid::nil()}));
        assert_eq!(folded(&[completed("a"), completed("b")]).foreign_command_at, None);
        assert_eq!(folded(&[completed("a"), foreign("b"), foreign("c")]).foreign_command_at, Some(2));
    }

    #[test]
    fn what_was_done_is_taken_back_in_reverse_and_once() {
        let steps = json!([
            {"step": "a", "command": 1, "compensation": "undo a"},
            {"step": "b", "command": 2, "compensation": "undo b"},
            {"step": "c", "command": 3},
            {"step": "d", "command": 4, "compensation": "undo d"},
        ]);
        let mut facts =
            vec![reacted(1, json!({"steps": steps})), completed("b"), completed("c"), completed("a")];
        let instance = folded(&facts);
        assert!(instance.can_compensate() && !instance.is_compensating());
        let labels = |steps: &[SagaStep]| {
            steps.iter().map(|compensation| compensation.step.clone()).collect::<Vec<_>>()
        };
        assert_eq!(labels(&instance.all_compensations()), ["undo/a", "undo/b"]);

        let started = json!({"step": "e", "attempts": 3, "code": "X", "steps": instance.all_compensations()});
        facts.push((SagaFact::CompensationStarted, started));
        facts.push(completed("d"));
        let instance = folded(&facts);
        assert!(instance.is_compensating());
        assert_eq!(labels(instance.compensations_for("e").expect("is there")), ["undo/a", "undo/b"]);
        assert_eq!(
            labels(&instance.all_compensations()),
            ["undo/d"],
            "it took effect too late to be in the list"
        );
        assert_eq!(instance.steps["e"], StepState::RetriesExhausted);
    }

    #[test]
    fn a_timer_is_set_once_and_cancelled_before_it_fires_only() {
        let timer = |label: &str| json!({"timer": label, "due": "2026-01-02T03:04:05Z"});
        let instance = folded(&[
            reacted(1, json!({"timers": [timer("a"), timer("b"), timer("c")], "data": 7})),
            (SagaFact::TimerFired, timer("b")),
            reacted(2, json!({"cancelled_timers": ["a", "b"]})),
        ]);
        assert_eq!(instance.timers["a"], TimerState::Cancelled);
        assert_eq!(instance.timers["b"], TimerState::Fired);
        assert!(matches!(instance.timers["c"], TimerState::Set(_)));
        assert_eq!(
            (instance.version, instance.state.as_str(), &instance.data),
            (3, "after 2", &Some(json!(7)))
        );
        assert!(instance.reaction_to(Uuid::from_u128(1)).is_some());
    }
}
