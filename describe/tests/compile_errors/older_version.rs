//! An older version of an event is converted by `From`, and the newest one has version 2 at least.

use schemas::engine::events;

/// The payload of `opened.v1`.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct OpenedV1 {}

/// What has happened to a deal.
#[events("crm.deal")]
pub enum DealEvent {
    /// A deal was opened.
    #[event("opened.v2", from = OpenedV1)]
    Opened {},
}

/// What has happened to an offer.
#[events("crm.offer")]
pub enum OfferEvent {
    /// An offer was made.
    #[event("made.v1", from = OpenedV1)]
    Made {},
}
