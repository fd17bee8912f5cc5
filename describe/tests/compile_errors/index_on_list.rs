//! A column with several values has no index.

use schemas::engine::read_model;

/// A deal.
#[read_model("deals.v1", visible_to = CrmRead, order = title)]
pub struct DealRow {
    /// The title.
    pub title: String,
    /// The tags.
    #[column(find)]
    pub tags: Vec<String>,
}
