//! An aggregate with personal data names the command that erases them.

use access::ErrorCode;
use commands::{AnyAggregate, Decider, Facts};
use describe::rejections;
use schemas::engine::{Name, Sealed, commands, events, value_object};
use serde::{Deserialize, Serialize};

/// Who the deal is about.
#[value_object]
pub struct DealPerson {
    pub name: Name,
}

/// What has happened to a deal.
#[events("crm.deal")]
pub enum DealEvent {
    /// A deal was opened.
    #[event("opened.v1")]
    Opened { person: Sealed<DealPerson> },
}

/// The commands of a deal.
#[commands]
pub enum DealCommand {
    /// Opens a deal.
    #[creates]
    OpenDeal {
        #[flatten]
        person: DealPerson,
    },
}

/// Why a deal command was rejected.
#[rejections]
pub enum DealRejection {
    #[rejection(Invalid, "the deal is lost")]
    Lost,
}

/// What the rules know of a deal.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Deal {}

impl Decider for Deal {
    type Command = DealCommand;
    type Event = DealEvent;
    type Rejection = DealRejection;

    const EXISTS: ErrorCode = ErrorCode::ValueTaken;

    fn decide(&self, command: DealCommand, _facts: &Facts) -> Result<Vec<DealEvent>, DealRejection> {
        match command {
            DealCommand::OpenDeal { person } => Ok(vec![DealEvent::Opened { person: Sealed::own(person) }]),
        }
    }

    fn apply(&mut self, _event: DealEvent) {}
}

pub static AGGREGATES: &[AnyAggregate] = &[AnyAggregate::of::<Deal>()];
