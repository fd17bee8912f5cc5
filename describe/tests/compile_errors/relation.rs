//! Relations that lead to no row.

use schemas::engine::{Name, read_model};
use uuid::Uuid;

/// A deal.
#[read_model("deals.v1", visible_to = CrmRead, order = title)]
pub struct DealRow {
    /// The title.
    pub title: String,
    /// The customer.
    #[column(find, to = Name)]
    pub customer_id: Uuid,
}

/// A deal.
#[read_model("offers.v1", visible_to = CrmRead, order = title)]
pub struct OfferRow {
    /// The title.
    pub title: String,
    /// The customer.
    #[column(find, back = "offers")]
    pub customer_id: Uuid,
}
