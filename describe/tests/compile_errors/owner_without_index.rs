//! Own rows are found by an index.

use schemas::engine::read_model;
use uuid::Uuid;

/// A deal.
#[read_model("deals.v1", visible_to = CrmRead, order = title, owner = user_id)]
pub struct DealRow {
    /// The title.
    pub title: String,
    /// The user.
    pub user_id: Uuid,
}
