//! What a process says, and the ids that follow from it.

use std::time::Duration;

use commands::AnyCommand;
use schemas::engine::{Actor, DecodeError, RecordedEvent, TenantId, ids};
use schemas::saga::{SagaFact, SagaTimer};
use uuid::Uuid;

use super::instance::Instance;

/// An event that a process looks at.
#[derive(Debug, Clone, Copy)]
pub struct Trigger<'a> {
    /// Whose log it stands in.
    pub tenant: TenantId,
    /// The event.
    pub event: &'a RecordedEvent,
    /// The instance that [`Process::route`] named, as it stands before the reaction; a new one where it named none.
    pub instance: &'a Instance,
}

impl Trigger<'_> {
    /// The label of the process's own timer whose time has come, where the event says that.
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

/// A process: which events concern it and what it wants done then. Synchronous and without clock or randomness, so that
/// a repeat wants the same.
pub trait Process: Send + Sync + 'static {
    /// Its name, a valid token of an event type: `customer_onboarding`.
    fn name(&self) -> &'static str;

    /// The instance that an event concerns, for processes that look at what the instance has done so far: its stream is
    /// read then. The facts in the instances' own streams, such as a timer that has fired, come by here as well.
    fn route(&self, _event: &RecordedEvent) -> Result<Option<Uuid>, DecodeError> {
        Ok(None)
    }

    /// The reaction to an event, or `None` where the event does not concern it.
    fn react(&self, trigger: Trigger<'_>) -> Result<Option<Reaction>, DecodeError>;
}

/// What an event leads to in one instance of a process.
#[derive(Debug, Clone, PartialEq)]
pub struct Reaction {
    /// The instance; derived from what the process is about, never random.
    pub instance: Uuid,
    /// Where the instance stands afterwards, in a word.
    pub state: &'static str,
    /// The commands it wants.
    pub steps: Vec<Step>,
    /// The timers it sets.
    pub timers: Vec<Timer>,
    /// The labels of timers that it wants no more.
    pub cancelled_timers: Vec<&'static str>,
    /// What later reactions shall see; `None` leaves what is there.
    pub data: Option<serde_json::Value>,
    /// Whose personal data stands in the commands and the data, where there is any: they are sealed under that subject's key.
    /// Compensations name what they take back by ids alone and stay in clear.
    pub subject: Option<Uuid>,
}

impl Reaction {
    /// A reaction that wants nothing yet.
    pub fn new(instance: Uuid, state: &'static str) -> Self {
        let (steps, timers, cancelled_timers) = (Vec::new(), Vec::new(), Vec::new());
        Self { instance, state, steps, timers, cancelled_timers, data: None, subject: None }
    }

    /// Says whose personal data stands in the commands and the data.
    #[must_use]
    pub fn with_subject(mut self, subject: Uuid) -> Self {
        self.subject = Some(subject);
        self
    }

    /// Wants a command sent.
    #[must_use]
    pub fn step(mut self, label: &'static str, command: AnyCommand) -> Self {
        self.steps.push(Step { label, command, compensation: None });
        self
    }

    /// Wants a command sent, and says which one takes it back, should a step of the instance fail for good.
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

    /// Sets a timer; when its time has come `timer_fired` is recorded in the instance's stream.
    #[must_use]
    pub fn timer(mut self, label: &'static str, after: Duration) -> Self {
        self.timers.push(Timer { label, after });
        self
    }

    /// Wants a timer no more. One whose time has come stays fired.
    #[must_use]
    pub fn cancel_timer(mut self, label: &'static str) -> Self {
        self.cancelled_timers.push(label);
        self
    }

    /// Keeps something for later reactions.
    #[must_use]
    pub fn with_data(mut self, data: serde_json::Value) -> Self {
        self.data = Some(data);
        self
    }
}

/// One command that an instance wants.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Unique within the instance; no slash.
    pub label: &'static str,
    /// The command.
    pub command: AnyCommand,
    /// The command that takes it back.
    pub compensation: Option<AnyCommand>,
}

/// A timer that an instance sets. Its label is set once: what is to come again is another timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    /// Unique within the instance; no slash.
    pub label: &'static str,
    /// How long after the event that sets it.
    pub after: Duration,
}

/// The id of the aggregate that a step brings into being.
pub fn target_id(process: &str, instance: Uuid, step: &str) -> Uuid {
    ids::derived_id(instance, &format!("saga.{process}/{step}/target"))
}

/// The id under which a step's command is sent, however often.
pub fn command_id(process: &str, instance: Uuid, step: &str) -> Uuid {
    ids::derived_id(instance, &format!("saga.{process}/{step}"))
}

/// The id under which the reaction to an event is recorded.
pub(super) fn reaction_id(process: &str, trigger_event: Uuid) -> Uuid {
    ids::derived_id(trigger_event, &format!("saga.{process}/reaction"))
}

/// The label of the step that takes another one back.
pub(super) fn compensation_label(step: &str) -> String {
    format!("undo/{step}")
}

/// How the labels of timers' rows begin.
pub(super) const TIMER_PREFIX: &str = "timer/";

/// The label of the row of a timer.
pub(super) fn timer_label(timer: &str) -> String {
    format!("{TIMER_PREFIX}{timer}")
}

/// The name of a process's checkpoint, and of the consumer in its dead letters.
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
