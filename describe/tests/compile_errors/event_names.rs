//! Names of events.

use schemas::engine::events;

/// What has happened to a deal.
#[events("crm.deal")]
pub enum DealEvent {
    /// A deal was opened.
    #[event("opened")]
    Opened {},
}

/// What has happened to an offer.
#[events("crm.offer")]
pub enum OfferEvent {
    /// An offer was made.
    Made {},
}

/// What has happened to a line.
#[events("crm.line")]
pub enum LineEvent {
    /// A line was added.
    #[event("added.v1")]
    Added {},
    /// A line was added again.
    #[event("added.v1")]
    AddedAgain {},
}
