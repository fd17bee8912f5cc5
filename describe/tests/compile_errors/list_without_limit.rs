//! A list that clients send has a limit.

use schemas::engine::{Name, commands};

/// The commands of a deal.
#[commands]
pub enum DealCommand {
    /// Tags a deal.
    TagDeal {
        /// The tags.
        tags: Vec<Name>,
    },
}
