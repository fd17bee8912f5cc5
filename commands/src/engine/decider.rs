//! The interface of an aggregate's rules.

use access::{ErrorCode, Rejection};
use chrono::{DateTime, Utc};
use schemas::engine::{CommandTarget, Commands, Event, clock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::Reservation;

/// What rules may know besides the state and the command.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The time of the decision.
    pub now: DateTime<Utc>,
}

impl Facts {
    /// The facts of this moment.
    pub fn now() -> Self {
        Self { now: clock::now() }
    }
}

/// A kind of value that must be unique in a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReservedKind {
    /// Its name in the store, such as `email`.
    pub name: &'static str,
    /// The error code if another aggregate has the value.
    pub taken: ErrorCode,
    /// The field of the input that gives the value.
    pub field: &'static str,
}

impl ReservedKind {
    /// A kind that the aggregate does not declare.
    pub const OTHER: Self = Self { name: "value", taken: ErrorCode::ValueTaken, field: "value" };
}

/// The rules of one kind of aggregate: its state, how events change the state, and which events a command produces.
/// The functions are synchronous and depend only on their arguments.
///
/// The engine checks that the aggregate exists, or does not: see [`CommandTarget`]. So `decide` is called only with a
/// state that fits the command.
/// [`CqrsAggregate`](crate::CqrsAggregate) makes a cqrs-es aggregate of it.
pub trait Decider: Default + Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The commands of the aggregate.
    type Command: Commands;
    /// The events of the aggregate.
    type Event: Event;
    /// Why a command is rejected.
    type Rejection: Rejection;

    /// `<context>.<aggregate>`, the category of its streams.
    const CATEGORY: &'static str = <Self::Event as Event>::CATEGORY;
    /// The error code of a command that creates an aggregate that exists.
    const EXISTS: ErrorCode;
    /// The kinds of values that it reserves: see [`Decider::reserved`].
    const RESERVED_KINDS: &'static [ReservedKind] = &[];
    /// The kinds of secrets that the store holds for it.
    const SECRET_KINDS: &'static [&'static str] = &[];
    /// The command that erases its subject. An aggregate with personal data needs one.
    const ERASE: Option<fn() -> Self::Command> = None;

    /// The events that the command produces in this state; empty if there is nothing to do.
    ///
    /// # Errors
    /// The reason if the rules reject the command.
    fn decide(&self, command: Self::Command, facts: &Facts) -> Result<Vec<Self::Event>, Self::Rejection>;

    /// Applies an event to the state.
    fn apply(&mut self, event: Self::Event);

    /// The values that must be unique in the tenant in this state. The engine reserves those that an event adds, and
    /// releases those that it removes.
    fn reserved(&self) -> Vec<Reservation> {
        Vec::new()
    }
}

/// Why the rules do not take a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecideError<R> {
    /// The command creates an aggregate that exists.
    #[error("there is something under this id already")]
    Exists,
    /// The aggregate does not exist.
    #[error("there is nothing under this id")]
    NotFound,
    /// The rules of the aggregate reject the command.
    #[error("{0}")]
    Rejected(R),
}

/// Checks that the aggregate exists, or does not, and then decides. `version` is 0 before the first event.
///
/// # Errors
/// [`DecideError`].
pub fn decide<A: Decider>(
    state: &A,
    version: u64,
    command: A::Command,
    facts: &Facts,
) -> Result<Vec<A::Event>, DecideError<A::Rejection>> {
    match (command.command_type().target, version) {
        (CommandTarget::New, 1..) => Err(DecideError::Exists),
        (CommandTarget::Existing, 0) => Err(DecideError::NotFound),
        _ => state.decide(command, facts).map_err(DecideError::Rejected),
    }
}

/// The values that are held after a change and were not before, and those that are no longer.
pub(crate) fn reservation_changes(
    before: Vec<Reservation>,
    after: Vec<Reservation>,
) -> (Vec<Reservation>, Vec<Reservation>) {
    let added = after.iter().filter(|value| !before.contains(value)).cloned().collect();
    let removed = before.into_iter().filter(|value| !after.contains(value)).collect();
    (added, removed)
}
