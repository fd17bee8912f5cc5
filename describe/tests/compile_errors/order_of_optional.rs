//! Pages in the order of a column that may be absent would lose rows.

use chrono::{DateTime, Utc};
use schemas::engine::read_model;

/// A deal.
#[read_model("deals.v1", visible_to = CrmRead, order = closed_at)]
pub struct DealRow {
    /// The title.
    #[column(order)]
    pub title: Option<String>,
    /// When it begins.
    #[column(range)]
    pub starts_at: Option<DateTime<Utc>>,
    /// When it was closed.
    pub closed_at: Option<DateTime<Utc>>,
}
