//! What clients read has words: its own, or those of its type.

use schemas::engine::{Name, commands, enumeration, events, read_model, value_object};

/// Lines of a deal.
#[value_object]
pub struct Lines {
    pub count: u64,
    pub name: Name,
}

#[value_object]
pub struct Wordless {
    /// The count.
    pub count: u64,
}

#[enumeration]
pub enum DealStatus {
    Open,
}

#[events("crm.deal")]
pub enum DealEvent {
    #[event("opened.v1")]
    Opened {},
}

#[commands]
pub enum DealCommand {
    OpenDeal {},
}

/// A deal.
#[read_model("deals.v1", visible_to = CrmRead, order = title)]
pub struct DealRow {
    pub title: String,
}
