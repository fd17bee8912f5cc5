//! What a process says, and the ids that follow from it.

use commands::AnyCommand;
use schemas::engine::{Actor, DecodeError, RecordedEvent, TenantId, ids};
use uuid::Uuid;

/// An event that a process looks at.
#[derive(Debug, Clone, Copy)]
pub struct Trigger<'a> {
    /// Whose log it stands in.
    pub tenant: TenantId,
    /// The event.
    pub event: &'a RecordedEvent,
}

/// A process: which events concern it and what it wants done then. Synchronous and without clock or randomness, so that
/// a repeat wants the same.
pub trait Process: Send + Sync + 'static {
    /// Its name, a valid token of an event type: `customer_onboarding`.
    fn name(&self) -> &'static str;

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
}

/// One command that an instance wants.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Unique within the instance.
    pub label: &'static str,
    /// The command.
    pub command: AnyCommand,
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
