//! The interface of a saga (`Process`), and the ids derived from it.

use std::time::Duration;

use commands::AnyCommand;
use schemas::engine::{Actor, DecodeError, RecordedEvent, TenantId, ids};
use schemas::saga::{SagaFact, SagaTimer};
use uuid::Uuid;

use super::instance::Instance;

/// An event for which a saga is called.
#[derive(Debug, Clone, Copy)]
pub struct Trigger<'a> {
    /// The tenant whose log holds the event.
    pub tenant: TenantId,
    /// The event.
    pub event: &'a RecordedEvent,
    /// The instance that [`Process::route`] returned, before the reaction; a new instance if it returned `None`.
    pub instance: &'a Instance,
}

impl Trigger<'_> {
    /// The label of the saga's own timer if this event says that it fired.
    ///
    /// # Errors
    /// [`DecodeError`] if the payload cannot be parsed.
    pub fn fired_timer(&self, process: &str) -> Result<Option<String>, DecodeError> {
        if SagaFact::of(&self.event.event_type, process) != Some(SagaFact::TimerFired) {
            return Ok(None);
        }
        let decoded: Result<SagaTimer, _> = serde_json::from_slice(&self.event.payload);
        let event_type = || self.event.event_type.to_string();
        decoded
            .map(|fired| Some(fired.timer))
            .map_err(|source| DecodeError { event_type: event_type(), source })
    }
}

/// A saga: which events concern it and how it reacts. It is synchronous and has no clock or randomness, so that a
/// repeated call returns the same reaction.
pub trait Process: Send + Sync + 'static {
    /// The name, a valid token of an event type, such as `customer_onboarding`.
    fn name(&self) -> &'static str;

    /// The instance that an event concerns, if the reaction depends on what the instance has done so far. Its stream is
    /// then read.
    /// Events in the instances' own streams, such as a fired timer, are passed here too.
    ///
    /// # Errors
    /// [`DecodeError`] if the payload does not match the event type.
    fn route(&self, _event: &RecordedEvent) -> Result<Option<Uuid>, DecodeError> {
        Ok(None)
    }

    /// The reaction to an event, or `None` if the event does not concern the saga.
    ///
    /// # Errors
    /// [`DecodeError`] if the payload does not match the event type.
    fn react(&self, trigger: Trigger<'_>) -> Result<Option<Reaction>, DecodeError>;
}

/// What one instance of a saga wants after an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Reaction {
    /// The instance. Its id is derived from what the saga is about, never random.
    pub instance: Uuid,
    /// The state of the instance afterwards, in one word.
    pub state: &'static str,
    /// The commands to send.
    pub steps: Vec<Step>,
    /// The timers to set.
    pub timers: Vec<Timer>,
    /// The labels of timers to cancel.
    pub cancelled_timers: Vec<&'static str>,
    /// Data for later reactions; `None` keeps the earlier data.
    pub data: Option<serde_json::Value>,
    /// The subject of the personal data in the commands and the data, if there is any. They are encrypted with its key.
    /// Compensations contain only ids and are not encrypted.
    pub subject: Option<Uuid>,
}

impl Reaction {
    /// A reaction without steps and timers.
    pub fn new(instance: Uuid, state: &'static str) -> Self {
        let (steps, timers, cancelled_timers) = (Vec::new(), Vec::new(), Vec::new());
        Self { instance, state, steps, timers, cancelled_timers, data: None, subject: None }
    }

    /// Sets the subject of the personal data in the commands and the data.
    #[must_use]
    pub fn with_subject(mut self, subject: Uuid) -> Self {
        self.subject = Some(subject);
        self
    }

    /// Adds a command to send.
    #[must_use]
    pub fn step(mut self, label: &'static str, command: AnyCommand) -> Self {
        self.steps.push(Step { label, command, compensation: None });
        self
    }

    /// Adds a command to send, and its compensation. The compensation is sent if a step of the instance fails for good.
    #[must_use]
    pub fn step_with_compensation(
        mut self,
        label: &'static str,
        command: AnyCommand,
        compensation: AnyCommand,
    ) -> Self {
        self.steps.push(Step { label, command, compensation: Some(compensation) });
        self
    }

    /// Sets a timer. When it is due, `timer_fired` is recorded in the instance's stream.
    #[must_use]
    pub fn timer(mut self, label: &'static str, after: Duration) -> Self {
        self.timers.push(Timer { label, after });
        self
    }

    /// Cancels a timer. A timer that has fired stays fired.
    #[must_use]
    pub fn cancel_timer(mut self, label: &'static str) -> Self {
        self.cancelled_timers.push(label);
        self
    }

    /// Stores data for later reactions.
    #[must_use]
    pub fn with_data(mut self, data: serde_json::Value) -> Self {
        self.data = Some(data);
        self
    }
}

/// One command of an instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Unique within the instance; contains no slash.
    pub label: &'static str,
    /// The command.
    pub command: AnyCommand,
    /// The command that undoes this one.
    pub compensation: Option<AnyCommand>,
}

/// A timer that an instance sets. A label is set once; a repeated timer needs another label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    /// Unique within the instance; contains no slash.
    pub label: &'static str,
    /// The time between the event and the firing.
    pub after: Duration,
}

/// The id of the aggregate that a step creates.
pub fn target_id(process: &str, instance: Uuid, step: &str) -> Uuid {
    ids::derived_id(instance, &format!("saga.{process}/{step}/target"))
}

/// The id of a step's command. It is the same for every attempt.
pub fn command_id(process: &str, instance: Uuid, step: &str) -> Uuid {
    ids::derived_id(instance, &format!("saga.{process}/{step}"))
}

/// The command id under which the reaction to an event is recorded.
pub(super) fn reaction_id(process: &str, trigger_event: Uuid) -> Uuid {
    ids::derived_id(trigger_event, &format!("saga.{process}/reaction"))
}

/// The label of the compensation of a step.
pub(super) fn compensation_label(step: &str) -> String {
    format!("undo/{step}")
}

/// Prefix of the labels of timer rows.
pub(super) const TIMER_PREFIX: &str = "timer/";

/// The label of a timer's row.
pub(super) fn timer_label(timer: &str) -> String {
    format!("{TIMER_PREFIX}{timer}")
}

/// The name of a saga's checkpoint, and of the consumer in its dead letters.
pub fn consumer_name(process: &str) -> String {
    format!("saga.{process}")
}

pub(super) fn actor(process: &str) -> Actor {
    Actor::saga(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_repeat_and_differ_by_process_instance_and_step() {
        let id = Uuid::from_u128;
        assert_eq!(command_id("a", id(1), "x"), command_id("a", id(1), "x"));
        let all = [
            command_id("a", id(1), "x"),
            command_id("b", id(1), "x"),
            command_id("a", id(2), "x"),
            command_id("a", id(1), "y"),
            target_id("a", id(1), "x"),
            reaction_id("a", id(1)),
            reaction_id("b", id(1)),
        ];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
