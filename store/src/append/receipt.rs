//! The result of an append.

use chrono::{DateTime, Utc};
use schemas::engine::{LogId, StreamName};

/// The result of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The stream that was appended to.
    pub stream: StreamName,
    /// The version of the last appended event; without events, the version of the stream.
    pub version: u64,
    /// The log of the positions.
    pub log_id: LogId,
    /// The position of the first appended event; without events, the head of the log.
    pub first_position: u64,
    /// The position of the last appended event; without events, the head of the log.
    pub position: u64,
    /// The number of appended events.
    pub count: u32,
    /// When the events were recorded. `None` without events, and for the receipt of an earlier append.
    pub recorded_at: Option<DateTime<Utc>>,
    /// Whether this is the receipt of an earlier append with the same idempotency key.
    pub duplicate: bool,
}
