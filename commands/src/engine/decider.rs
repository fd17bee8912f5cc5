//! What an aggregate's rules look like to the executor, and the macro that writes a command enum.

use access::ErrorCode;
use schemas::engine::Event;
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::Reservation;

/// A domain "no": stable code for machines, `Display` for people.
pub trait Rejection: std::error::Error + Send + Sync + 'static {
    /// Its code in the catalogue.
    fn code(&self) -> ErrorCode;
}

/// The commands of one aggregate: an enum with one command struct a variant, written by [`commands!`](crate::commands).
pub trait CommandSet: Serialize + Clone + Send + Sync + 'static {
    /// Every command of the set, by name.
    const NAMES: &'static [&'static str];

    /// The command's name, such as `RegisterCustomer`.
    fn name(&self) -> &'static str;
    /// Whether it brings the aggregate into being.
    fn creates(&self) -> bool;
}

/// The rules of one kind of aggregate: its state, what an event makes of it, and what a command makes happen. The functions
/// are synchronous and see nothing but their arguments. [`CqrsAggregate`](crate::CqrsAggregate) makes a cqrs-es aggregate of
/// it.
pub trait Decider: Default + Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What can be asked of it.
    type Command: CommandSet;
    /// What happens to it.
    type Event: Event;
    /// Why a command is refused.
    type Error: Rejection;

    /// `<context>.<aggregate>`, the category of its streams.
    const CATEGORY: &'static str = <Self::Event as Event>::CATEGORY;

    /// The rule: what happens when this is asked of an aggregate in this state. No events: nothing to do.
    fn decide(&self, command: Self::Command) -> Result<Vec<Self::Event>, Self::Error>;

    /// What the event makes of the state.
    fn apply(&mut self, event: Self::Event);

    /// False before the first event.
    fn exists(&self) -> bool;

    /// About how many bytes of memory a state takes, where that may be much: states are kept within a limit.
    fn bytes(&self) -> usize {
        0
    }

    /// What must be unique in the tenant from this event on.
    fn reservations(_event: &Self::Event) -> Vec<Reservation> {
        Vec::new()
    }

    /// What this event frees for others.
    fn releases(_event: &Self::Event) -> Vec<Reservation> {
        Vec::new()
    }

    /// The command's name.
    fn command_name(command: &Self::Command) -> &'static str {
        command.name()
    }

    /// Whether the command brings the aggregate into being, so that its stream must not exist.
    fn creates(command: &Self::Command) -> bool {
        command.creates()
    }
}

/// Writes the enum of an aggregate's commands: `creates` names the one that brings it into being, `changes` the rest.
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
