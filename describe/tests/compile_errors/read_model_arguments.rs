//! Arguments of `read_model` that name nothing.

use schemas::engine::read_model;

/// A deal.
#[read_model("deals.v1", visible_to = CrmRead, order = made)]
pub struct OrderRow {
    /// The title.
    pub title: String,
}

/// A deal.
#[read_model("deals.v1", visible_to = CrmSee, order = title)]
pub struct ScopeRow {
    /// The title.
    pub title: String,
}

/// A deal.
#[read_model("deals", visible_to = CrmRead, order = title)]
pub struct VersionRow {
    /// The title.
    pub title: String,
}

/// A deal.
#[read_model("deals.v1", visible_to = CrmRead, order = title, sorted = title)]
pub struct ArgumentRow {
    /// The title.
    pub title: String,
}
