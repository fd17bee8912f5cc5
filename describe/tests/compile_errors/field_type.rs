//! `f64` has no kind: rounding differs between JSON, SQL and GraphQL.

use schemas::engine::{commands, read_model, value_object};

/// A price.
#[value_object]
pub struct Price {
    /// The amount.
    pub amount: f64,
}

/// The commands of a deal.
#[commands]
pub enum DealCommand {
    /// Changes the price.
    ChangePrice {
        /// The price.
        price: f64,
    },
}

/// A deal.
#[read_model("deals.v1", visible_to = CrmRead, order = title)]
pub struct DealRow {
    /// The title.
    pub title: String,
    /// The price.
    pub price: f64,
}
