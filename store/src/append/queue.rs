//! The bounded queue in front of the append workers.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use schemas::engine::TenantId;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::capacity::{QueueCapacity, QueuePermit};
use super::plan::EVENT_ID_KIND;
use super::worker::AppendWorker;
use super::{AppendError, Receipt, StreamAppend};
use crate::database_instance::RestoreGuard;
use crate::event_ids::EventIds;
use crate::pools::Pools;
use crate::signals::Signals;
use crate::{DeploymentKey, StoreConfig, StoreError};

/// Most stream appends waiting in one worker.
const QUEUE_APPENDS_MAX: usize = 8_192;
/// Most bytes of the appends waiting in one worker: twice the largest append, so that one of these is never refused by its
/// size alone, and few enough for all workers of a process to be full at once.
const QUEUE_BYTES_MAX: usize = 2 * super::EVENTS_MAX * super::EVENT_BYTES_MAX;
/// Longest that a caller waits for an answer.
const APPEND_TIMEOUT: Duration = Duration::from_secs(15);

/// One append on its way, with its caller.
pub(super) struct PendingAppend {
    pub(super) tenant: TenantId,
    pub(super) append: StreamAppend,
    pub(super) metadata: Bytes,
    /// The ids that its events were given from outside, each with the digest that it is reserved by.
    pub(super) event_ids: Vec<(Uuid, [u8; 32])>,
    pub(super) bytes: usize,
    /// How often it went into a flush that did not settle it.
    pub(super) attempts: u32,
    /// Whether it was refused by a remembered version that no swap has proved: the version is looked up next time.
    pub(super) needs_version_lookup: bool,
    pub(super) reply: oneshot::Sender<Result<Receipt, AppendError>>,
    /// Its room in the queue, given back when it is settled.
    pub(super) _permit: QueuePermit,
}

/// A worker as seen from its queue.
struct WorkerHandle {
    sender: mpsc::UnboundedSender<PendingAppend>,
    capacity: Arc<QueueCapacity>,
}

/// The door to the append workers. Tenants are spread over workers by their id, so one process has one writer a tenant.
pub(crate) struct Appender {
    key: DeploymentKey,
    event_ids: Arc<EventIds>,
    workers: Vec<WorkerHandle>,
    stop: CancellationToken,
    tasks: tokio_util::task::TaskTracker,
}

impl Appender {
    pub(crate) fn start(
        config: &StoreConfig,
        pools: &Pools,
        signals: &Arc<Signals>,
        restore_guard: &Arc<RestoreGuard>,
        event_ids: &Arc<EventIds>,
    ) -> Self {
        let stop = CancellationToken::new();
        let tasks = tokio_util::task::TaskTracker::new();
        let workers = (0..config.append_workers.max(1))
            .map(|_| {
                // Unbounded by type, bounded by the room: a place is taken before anything is sent.
                let (sender, receiver) = mpsc::unbounded_channel();
                let worker = AppendWorker::new(
                    config.key.clone(),
                    pools,
                    Arc::clone(signals),
                    Arc::clone(restore_guard),
                    Arc::clone(event_ids),
                    receiver,
                );
                tasks.spawn(worker.run(stop.clone()));
                WorkerHandle { sender, capacity: QueueCapacity::new(QUEUE_APPENDS_MAX, QUEUE_BYTES_MAX) }
            })
            .collect();
        tasks.close();
        Self { key: config.key.clone(), event_ids: Arc::clone(event_ids), workers, stop, tasks }
    }

    /// `event_ids` are those that came from outside with the events.
    pub(crate) async fn append(
        &self,
        tenant: TenantId,
        append: StreamAppend,
        event_ids: &[Uuid],
    ) -> Result<Receipt, AppendError> {
        let event_ids = event_ids.iter().map(|id| (*id, event_id_digest(&self.key, tenant, *id))).collect();
        let metadata = serde_json::to_vec(&append.metadata)
            .map_err(|error| AppendError::Invalid(format!("metadata does not serialise: {error}")))?;
        let bytes = append.validate(&metadata)?;
        let worker = &self.workers[worker_index(tenant, self.workers.len())];
        let permit = worker.capacity.try_acquire(tenant, bytes).ok_or(AppendError::Overloaded)?;
        let (reply, answer) = oneshot::channel();
        let pending = PendingAppend {
            tenant,
            append,
            metadata: metadata.into(),
            event_ids,
            bytes,
            attempts: 0,
            needs_version_lookup: false,
            reply,
            _permit: permit,
        };
        worker.sender.send(pending).map_err(|_| shutting_down())?;
        match tokio::time::timeout(APPEND_TIMEOUT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(shutting_down()),
            Err(_) => Err(StoreError::Unavailable("no answer in time".to_owned()).into()),
        }
    }

    /// The first of these ids of events that cannot be given from outside: it is one that the product makes, or it comes
    /// twice.
    pub(crate) fn first_unavailable(&self, tenant: TenantId, event_ids: &[Uuid]) -> Option<Uuid> {
        let mut seen = HashSet::new();
        event_ids.iter().copied().find(|id| self.event_ids.is_own(tenant, *id) || !seen.insert(*id))
    }

    /// Takes no more appends, writes those that wait, and ends.
    pub(crate) async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// An id that came with an event is reserved, as a value that no second event of the tenant may have.
fn event_id_digest(key: &DeploymentKey, tenant: TenantId, id: Uuid) -> [u8; 32] {
    crate::tenant::reservation_digest(key, tenant, EVENT_ID_KIND, &id.to_string())
}

fn worker_index(tenant: TenantId, workers: usize) -> usize {
    // The id's last bytes are random (UUIDv7).
    (tenant.0.as_u128() as usize) % workers
}

fn shutting_down() -> AppendError {
    StoreError::Unavailable("the store is shutting down".to_owned()).into()
}
