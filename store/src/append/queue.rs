//! The bounded queue in front of the append workers.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use schemas::engine::TenantId;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::capacity::QueueCapacity;
use super::error::AppendError;
use super::pending::{EVENT_ID_KIND, PendingAppend};
use super::receipt::Receipt;
use super::request::{EVENT_BYTES_MAX, EVENTS_MAX, StreamAppend};
use super::worker::AppendWorker;
use crate::database_instance::RestoreGuard;
use crate::event_ids::EventIds;
use crate::pools::Pools;
use crate::signals::Signals;
use crate::{DeploymentKey, StoreConfig, StoreError};

/// Maximum queued stream appends per worker.
const QUEUE_APPENDS_MAX: usize = 8_192;
/// Maximum bytes of the queued appends per worker.
/// It is twice the largest append, so that size alone never causes a rejection.
/// It is small enough that all queues of a process can be full at once.
const QUEUE_BYTES_MAX: usize = 2 * EVENTS_MAX * EVENT_BYTES_MAX;
/// Maximum wait of a caller for the result. Afterwards the outcome is unknown to the caller.
const APPEND_TIMEOUT: Duration = Duration::from_secs(15);

/// The sending side of a worker's queue.
struct WorkerHandle {
    sender: mpsc::UnboundedSender<PendingAppend>,
    capacity: Arc<QueueCapacity>,
}

/// Sends appends to the append workers.
/// A tenant always maps to the same worker, so a process has one writer per tenant.
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
                // The channel is unbounded, but the queue is not: every append first takes capacity.
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

    /// Queues an append and waits for its result. `event_ids` are the ids given by the client.
    ///
    /// # Errors
    /// [`AppendError::Overloaded`] when the queue is full; [`StoreError::Unavailable`] after `APPEND_TIMEOUT`.
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

    /// The first id that a client cannot use: an id of the form that the product generates, or a repeated id.
    pub(crate) fn first_unavailable(&self, tenant: TenantId, event_ids: &[Uuid]) -> Option<Uuid> {
        let mut seen = HashSet::new();
        event_ids.iter().copied().find(|id| self.event_ids.is_own(tenant, *id) || !seen.insert(*id))
    }

    /// Stops accepting appends, writes the queued ones, and returns.
    pub(crate) async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// The digest that reserves a client's event id, so that no second event of the tenant can have it.
fn event_id_digest(key: &DeploymentKey, tenant: TenantId, id: Uuid) -> [u8; 32] {
    key.reservation_digest(tenant, EVENT_ID_KIND, &id.to_string())
}

fn worker_index(tenant: TenantId, workers: usize) -> usize {
    // The last bytes of the id are random (UUIDv7).
    (tenant.0.as_u128() as usize) % workers
}

fn shutting_down() -> AppendError {
    StoreError::Unavailable("the store is shutting down".to_owned()).into()
}
