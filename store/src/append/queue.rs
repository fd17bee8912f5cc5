//! The bounded queue in front of the append lanes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use schemas::engine::TenantId;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::lane::Lane;
use super::room::{Place, Room};
use super::{AppendError, Receipt, StreamAppend};
use crate::incarnation::Gate;
use crate::signals::Signals;
use crate::{StoreConfig, StoreError};

/// Most stream appends waiting in one lane.
const QUEUE: usize = 8_192;
/// Most bytes of the appends waiting in one lane: twice the largest append, so that one of these is never refused by its
/// size alone, and few enough for all lanes of a process to be full at once.
const QUEUE_BYTES: usize = 2 * super::EVENTS_MAX * super::EVENT_BYTES_MAX;
/// Longest that a caller waits for an answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// One append on its way, with its caller.
pub(super) struct Pending {
    pub(super) tenant: TenantId,
    pub(super) append: StreamAppend,
    pub(super) metadata: Bytes,
    pub(super) bytes: usize,
    /// How often it went into a flush that did not settle it.
    pub(super) tries: u32,
    /// Whether it was refused by a remembered version that no swap has proved: the version is looked up next time.
    pub(super) in_doubt: bool,
    pub(super) reply: oneshot::Sender<Result<Receipt, AppendError>>,
    /// Its room in the queue, given back when it is settled.
    pub(super) _place: Place,
}

/// A lane as seen from its queue.
struct Door {
    sender: mpsc::UnboundedSender<Pending>,
    room: Arc<Room>,
}

/// The door to the append lanes. Tenants are spread over lanes by their id, so one process has one writer a tenant.
pub(crate) struct Appender {
    lanes: Vec<Door>,
    stop: CancellationToken,
    tasks: tokio_util::task::TaskTracker,
}

impl Appender {
    pub(crate) fn start(config: &StoreConfig, signals: &Arc<Signals>, gate: &Arc<Gate>) -> Self {
        let stop = CancellationToken::new();
        let tasks = tokio_util::task::TaskTracker::new();
        let lanes = (0..config.append_lanes.max(1))
            .map(|_| {
                // Unbounded by type, bounded by the room: a place is taken before anything is sent.
                let (sender, receiver) = mpsc::unbounded_channel();
                let lane = Lane::new(config.clone(), Arc::clone(signals), Arc::clone(gate), receiver);
                tasks.spawn(lane.run(stop.clone()));
                Door { sender, room: Room::new(QUEUE, QUEUE_BYTES) }
            })
            .collect();
        tasks.close();
        Self { lanes, stop, tasks }
    }

    pub(crate) async fn append(
        &self,
        tenant: TenantId,
        append: StreamAppend,
    ) -> Result<Receipt, AppendError> {
        let metadata = serde_json::to_vec(&append.metadata)
            .map_err(|error| AppendError::Invalid(format!("metadata does not serialise: {error}")))?;
        let bytes = append.check(&metadata)?;
        let lane = &self.lanes[lane_of(tenant, self.lanes.len())];
        let place = lane.room.take(tenant, bytes).ok_or(AppendError::Overloaded)?;
        let (reply, answer) = oneshot::channel();
        let pending = Pending {
            tenant,
            append,
            metadata: metadata.into(),
            bytes,
            tries: 0,
            in_doubt: false,
            reply,
            _place: place,
        };
        lane.sender.send(pending).map_err(|_| closed())?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(StoreError::Unavailable("no answer in time".to_owned()).into()),
        }
    }

    /// Takes no more appends, writes those that wait, and ends.
    pub(crate) async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

fn lane_of(tenant: TenantId, lanes: usize) -> usize {
    // The id's last bytes are random (UUIDv7).
    (tenant.0.as_u128() as usize) % lanes
}

fn closed() -> AppendError {
    StoreError::Unavailable("the store is shutting down".to_owned()).into()
}
