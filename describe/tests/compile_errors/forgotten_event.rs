//! Rules and folds handle every event.

use access::ErrorCode;
use commands::{Decider, Facts};
use describe::rejections;
use projections::{OutOfSequence, Projection};
use schemas::engine::{Moment, commands, events, read_model};
use serde::{Deserialize, Serialize};

/// What has happened to a deal.
#[events("crm.deal")]
pub enum DealEvent {
    /// A deal was opened.
    #[event("opened.v1")]
    Opened {},
    /// The deal was lost.
    #[event("lost.v1")]
    Lost {},
}

/// The commands of a deal.
#[commands]
pub enum DealCommand {
    /// Opens a deal.
    #[creates]
    OpenDeal {},
    /// Gives a deal up.
    LoseDeal {},
}

/// Why a deal command was rejected.
#[rejections]
pub enum DealRejection {
    #[rejection(Invalid, "the deal is lost")]
    Lost,
}

/// What the rules know of a deal.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Deal {
    is_lost: bool,
}

impl Decider for Deal {
    type Command = DealCommand;
    type Event = DealEvent;
    type Rejection = DealRejection;

    const EXISTS: ErrorCode = ErrorCode::ValueTaken;

    fn decide(&self, command: DealCommand, _facts: &Facts) -> Result<Vec<DealEvent>, DealRejection> {
        match command {
            DealCommand::OpenDeal {} => Ok(vec![DealEvent::Opened {}]),
        }
    }

    fn apply(&mut self, event: DealEvent) {
        match event {
            DealEvent::Opened {} => self.is_lost = false,
        }
    }
}

/// A deal.
#[read_model("deals.v1", visible_to = CrmRead, order = title)]
pub struct DealRow {
    /// The title.
    pub title: String,
}

impl Projection for DealRow {
    type Event = DealEvent;

    fn apply(_row: Option<Self>, event: DealEvent, _moment: &Moment) -> Result<Option<Self>, OutOfSequence> {
        match event {
            DealEvent::Opened {} => Ok(Some(Self::default())),
        }
    }
}
