//! Erases subjects, in this order:
//!
//! 1. Fence the key.
//! 2. Wait until no process holds it.
//! 3. Destroy it.
//! 4. Delete the subject's personal data outside the log.
//! 5. Record the erasure.
//!
//! Each step can be repeated, so a crash only delays the erasure (`docs/personal-data.md`).

use std::sync::Arc;
use std::time::Duration;

use access::Principal;
use commands::{CommandContext, CommandSideEffects, Executor, Subject};
use futures::Stream;
use futures::future::try_join_all;
use keyring::Keyring;
use schemas::contracts::known_prefix;
use schemas::engine::{Event, Metadata, RecordedEvent, ids};
use schemas::privacy::subject::{SubjectCommand, SubjectEvent};
use store::feed::{Batch, BatchOutcome, Consumer, FeedSettings};
use store::{StoreError, TenantStore, Workload};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::copies::DerivedCopies;
use crate::requests::{CONSUMER_NAME, store_error};
use crate::subjects::{erase_stream, is_erased};
use crate::{key_comparison, reapply};

/// Maximum wait for the read models. Afterwards the erasure is retried.
const READ_MODEL_WAIT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the read models are checked.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Added to the key lease, for a load that began just before the fence was on disk.
const LEASE_MARGIN: Duration = Duration::from_millis(200);

/// Carries out erasures.
#[derive(Clone)]
struct ErasureWorker {
    executor: Executor,
    keyring: Keyring,
    /// Checkpoints of the read models. They must have passed the deletion before the erasure is recorded.
    read_models: Vec<String>,
}

/// A requested erasure.
struct ErasureRequest {
    subject: Uuid,
    event: Uuid,
    /// Metadata of the requesting event.
    metadata: Metadata,
}

/// Erases subjects on request, and compares keys and copies with the logs, until cancelled.
/// `read_models` names the checkpoints of all read models with personal data.
/// `copies` is called at the start until it has answered, and after a log was replaced.
pub async fn run(
    executor: Executor,
    keyring: Keyring,
    read_models: Vec<String>,
    copies: DerivedCopies,
    followed: impl Stream<Item = Batch> + Send,
    cancel: CancellationToken,
) {
    let store = executor.store().clone();
    let feed = FeedSettings { workload: Some(Workload::Sagas), ..FeedSettings::default() };
    let compare = reapply::run(executor.clone(), keyring.clone(), copies, cancel.clone());
    let compare_keys = key_comparison::run(store.clone(), cancel.clone());
    let worker = Arc::new(ErasureWorker { executor, keyring, read_models });
    tokio::join!(store::feed::run(store, worker, followed, feed, cancel), compare, compare_keys);
}

impl Consumer for ErasureWorker {
    fn name(&self) -> &str {
        CONSUMER_NAME
    }

    /// An erasure must also work if the key of the subject is lost, so it must not need that key.
    fn reads_personal_data(&self) -> bool {
        false
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        event.stream.category() == SubjectEvent::CATEGORY
    }

    async fn handle(&self, from: u64, batch: Batch) -> Result<BatchOutcome, StoreError> {
        // A newer version of the program carries out what this one does not know.
        let events = known_prefix(&batch.events);
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            return Ok(if batch.events.is_empty() {
                BatchOutcome::Unaffected(from)
            } else {
                BatchOutcome::Stopped
            });
        };
        let (before, to) = (first.position - 1, last.position);
        let requests: Vec<ErasureRequest> = events.iter().filter_map(erasure_request).collect();
        let tenant = self.executor.store().tenant(batch.tenant);
        if requests.is_empty() {
            return Ok(BatchOutcome::Unaffected(to));
        }
        self.erase(&tenant, &requests).await?;
        let transaction = tenant.begin_worker_transaction().await?;
        if !transaction.move_checkpoint_within(CONSUMER_NAME, batch.log_id, from..=before, to).await? {
            return Ok(BatchOutcome::Conflict);
        }
        transaction.commit().await?;
        Ok(BatchOutcome::Advanced(to))
    }
}

fn erasure_request(event: &RecordedEvent) -> Option<ErasureRequest> {
    if event.stream.category() != SubjectEvent::CATEGORY {
        return None;
    }
    let Ok(Some(SubjectEvent::ErasureRequested { .. })) = event.decode::<SubjectEvent>() else { return None };
    let metadata = event.metadata.clone();
    Some(ErasureRequest { subject: event.stream.uuid()?, event: event.event_id, metadata })
}

impl ErasureWorker {
    async fn erase(&self, tenant: &TenantStore, requests: &[ErasureRequest]) -> Result<(), StoreError> {
        let id = tenant.id();
        try_join_all(requests.iter().map(|request| self.keyring.fence(id, request.subject))).await?;
        // After this wait no process holds a key that it loaded before the fence.
        sleep(self.keyring.lease() + LEASE_MARGIN).await;
        for request in requests {
            if is_erased(&self.executor, id, request.subject).await? {
                continue;
            }
            let key = self.keyring.destroy(id, request.subject).await?;
            let streams = self.keyring.streams(id, request.subject).await?;
            let context = CommandContext {
                command_id: Some(ids::derived_id(request.event, "forget")),
                correlation_id: Some(request.metadata.correlation_id),
                causation_id: Some(request.event),
                request_id: request.metadata.request_id.clone(),
                traceparent: request.metadata.traceparent.clone(),
                ..CommandContext::new(id, Principal::system(CONSUMER_NAME))
            };
            let mut erased_to = 0;
            for stream in &streams {
                let position = erase_stream(&self.executor, &context, stream).await?;
                erased_to = erased_to.max(position.unwrap_or(0));
            }
            self.wait_for_read_models(tenant, erased_to).await?;
            let context =
                CommandContext { command_id: Some(ids::derived_id(request.event, "erased")), ..context };
            let command = SubjectCommand::RecordErasure { key, streams, scrubbed_to: erased_to };
            let recorded = self.executor.execute::<Subject>(
                &context,
                request.subject,
                command,
                CommandSideEffects::default(),
            );
            recorded.await.map_err(store_error)?;
            metrics::counter!("annals_subjects_erased_total").increment(1);
            let request_id = request.metadata.request_id.as_ref().map(tracing::field::display);
            tracing::info!(tenant = %id, subject = %request.subject, request_id, "a subject was erased");
        }
        Ok(())
    }

    /// Waits until every read model has reached a position.
    async fn wait_for_read_models(&self, tenant: &TenantStore, position: u64) -> Result<(), StoreError> {
        let begun = Instant::now();
        loop {
            let mut behind = None;
            let transaction = tenant.begin_worker_transaction().await?;
            for name in &self.read_models {
                let at = transaction.checkpoint(name).await?.map_or(0, |at| at.position);
                if at < position {
                    behind = Some(name);
                }
            }
            transaction.commit().await?;
            let Some(name) = behind else { return Ok(()) };
            if begun.elapsed() > READ_MODEL_WAIT_TIMEOUT {
                return Err(StoreError::Unavailable(format!(
                    "the read model {name} has not come to position {position} yet"
                )));
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}
