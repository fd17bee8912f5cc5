//! A word that `column` does not know.

use schemas::engine::read_model;

/// A deal.
#[read_model("deals.v1", visible_to = CrmRead, order = title)]
pub struct DealRow {
    /// The title.
    #[column(fnd)]
    pub title: String,
}
