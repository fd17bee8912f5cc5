//! The interface of an aggregate's rules (`Decider`), and the macro that writes a command enum.

use access::ErrorCode;
use schemas::engine::Event;
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::Reservation;

/// Why the rules reject a command: a stable code for programs, `Display` for people.
pub trait Rejection: std::error::Error + Send + Sync + 'static {
    /// The error code.
    fn code(&self) -> ErrorCode;
}

/// The commands of one aggregate: an enum with one variant for each command struct, written by
/// [`commands!`](crate::commands).
pub trait CommandSet: Serialize + Clone + Send + Sync + 'static {
    /// Every command of the set, by name.
    const NAMES: &'static [&'static str];

    /// The command's name, such as `RegisterCustomer`.
    fn name(&self) -> &'static str;
    /// Whether the command creates the aggregate.
    fn creates(&self) -> bool;
}

/// The rules of one kind of aggregate: its state, how events change the state, and which events a command produces.
/// The functions are synchronous and depend only on their arguments.
/// [`CqrsAggregate`](crate::CqrsAggregate) makes a cqrs-es aggregate of it.
pub trait Decider: Default + Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The commands of the aggregate.
    type Command: CommandSet;
    /// The events of the aggregate.
    type Event: Event;
    /// Why a command is rejected.
    type Error: Rejection;

    /// `<context>.<aggregate>`, the category of its streams.
    const CATEGORY: &'static str = <Self::Event as Event>::CATEGORY;

    /// The events that the command produces in this state; empty if there is nothing to do.
    ///
    /// # Errors
    /// The reason if the rules reject the command.
    fn decide(&self, command: Self::Command) -> Result<Vec<Self::Event>, Self::Error>;

    /// Applies an event to the state.
    fn apply(&mut self, event: Self::Event);

    /// False before the first event.
    fn exists(&self) -> bool;

    /// Approximate memory of the state in bytes, beyond a small constant. The cache of states is limited by it.
    fn bytes(&self) -> usize {
        0
    }

    /// The values that must be unique in the tenant from this event on.
    fn reservations(_event: &Self::Event) -> Vec<Reservation> {
        Vec::new()
    }

    /// The reservations that this event releases.
    fn releases(_event: &Self::Event) -> Vec<Reservation> {
        Vec::new()
    }

    /// The command's name.
    fn command_name(command: &Self::Command) -> &'static str {
        command.name()
    }

    /// Whether the command creates the aggregate, so that its stream must not exist.
    fn creates(command: &Self::Command) -> bool {
        command.creates()
    }
}

/// Writes the enum of an aggregate's commands: `creates` names the creating command, `changes` the others.
#[macro_export]
macro_rules! commands {
    (
        $(#[$doc:meta])*
        pub enum $name:ident {
            creates $new:ident($new_command:ty);
            $( changes $( $variant:ident($command:ty) ),+ ; )?
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[expect(missing_docs, reason = "each variant is documented by the command that it holds")]
        pub enum $name {
            $new($new_command),
            $( $( $variant($command), )+ )?
        }

        impl $crate::engine::decider::CommandSet for $name {
            const NAMES: &'static [&'static str] = &[
                <$new_command as schemas::engine::Command>::NAME,
                $( $( <$command as schemas::engine::Command>::NAME, )+ )?
            ];

            fn name(&self) -> &'static str {
                match self {
                    Self::$new(_) => <$new_command as schemas::engine::Command>::NAME,
                    $( $( Self::$variant(_) => <$command as schemas::engine::Command>::NAME, )+ )?
                }
            }

            fn creates(&self) -> bool {
                match self {
                    Self::$new(_) => true,
                    $( $( Self::$variant(_) => false, )+ )?
                }
            }
        }

        impl From<$new_command> for $name {
            fn from(command: $new_command) -> Self {
                Self::$new(command)
            }
        }

        $( $(
            impl From<$command> for $name {
                fn from(command: $command) -> Self {
                    Self::$variant(command)
                }
            }
        )+ )?
    };
}
