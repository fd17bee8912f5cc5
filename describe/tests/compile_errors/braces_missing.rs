//! Events and commands have fields in braces, so that a field can join later.

use schemas::engine::{commands, events};

/// What has happened to a deal.
#[events("crm.deal")]
pub enum DealEvent {
    /// A deal was opened.
    #[event("opened.v1")]
    Opened,
}

/// The commands of a deal.
#[commands]
pub enum DealCommand {
    /// Opens a deal.
    #[creates]
    OpenDeal,
}
