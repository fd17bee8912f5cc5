//! Code cannot look rows up by a column without an index.

use schemas::engine::{Lookup, read_model};

/// A deal.
#[read_model("deals.v1", visible_to = CrmRead, order = title)]
pub struct DealRow {
    /// The title.
    #[column(find)]
    pub title: String,
    /// Notes.
    pub notes: String,
}

pub const BY_TITLE: Lookup<DealRow, String> = DealRow::TITLE;
pub const BY_NOTES: Lookup<DealRow, String> = DealRow::NOTES;
