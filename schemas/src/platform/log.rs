//! Events about a tenant's log itself: its replacement after the database was restored to an earlier state.

use crate::engine::{LogId, StreamName, TenantId, events};

/// What has happened to a tenant's log.
#[events("platform.log")]
pub enum LogEvent {
    /// The first event of a new log that goes on from a prefix of an old one. Positions up to `kept_to` hold the facts
    /// that they held in the old log; what the old log said beyond is void.
    #[event("replaced.v1")]
    Replaced {
        /// The log that ended.
        old_log_id: LogId,
        /// The log that this event belongs to.
        new_log_id: LogId,
        /// The last position that both have in common.
        kept_to: u64,
        /// The farthest position of the old log that is known to have been told to others, where anything is known.
        published_to: Option<u64>,
        /// The newest signed checkpoint of the old log that is known, as the whole signed note: it verifies with the old
        /// log's key and tells up to which position that log was signed.
        checkpoint: Option<String>,
        /// Why, for people.
        reason: String,
    },
}

/// The stream of a tenant's log.
pub fn stream(tenant: TenantId) -> StreamName {
    StreamName::new(<LogEvent as crate::engine::Event>::CATEGORY, tenant.0)
}
