//! A queued append.

use bytes::Bytes;
use schemas::engine::TenantId;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::capacity::QueuePermit;
use super::error::AppendError;
use super::receipt::Receipt;
use super::request::StreamAppend;

/// The reservation kind of event ids that clients give.
pub(super) const EVENT_ID_KIND: &str = "event_id";

/// A queued append with the channel to its caller.
pub(super) struct PendingAppend {
    pub(super) tenant: TenantId,
    pub(super) append: StreamAppend,
    pub(super) metadata: Bytes,
    /// The event ids given by the client, each with its reservation digest.
    pub(super) event_ids: Vec<(Uuid, [u8; 32])>,
    pub(super) bytes: usize,
    /// The number of flushes that did not decide it.
    pub(super) attempts: u32,
    /// Whether a cached version rejected it without proof: the next flush looks the version up.
    pub(super) needs_version_lookup: bool,
    pub(super) reply: oneshot::Sender<Result<Receipt, AppendError>>,
    /// Its capacity in the queue; dropped with the answer.
    pub(super) _permit: QueuePermit,
}
