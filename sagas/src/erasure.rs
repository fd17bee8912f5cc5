//! Erases subjects, in this order:
//!
//! 1. Fence the key.
//! 2. Wait until no process holds it.
//! 3. Destroy it.
//! 4. Delete the subject's personal data outside the log.
//! 5. Record the erasure.
//!
//! Each step can be repeated, so a crash only delays the erasure (`docs/personal-data.md`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use access::Principal;
use commands::privacy::erasure::{subject_of_customer, subject_of_user};
use commands::{
    CommandContext, CommandSideEffects, Decider, ExecuteError, Executor, Subject, SubjectRejection,
};
use futures::Stream;
use futures::future::{BoxFuture, try_join_all};
use keyring::Keyring;
use schemas::engine::{Event, LogId, Metadata, RecordedEvent, StreamName, TenantId, ids};
use schemas::privacy::subject::{ErasureStatus, RecordErasure, RequestErasure, SubjectEvent};
use store::feed::{Batch, BatchOutcome, Consumer, FeedSettings};
use store::{Causes, StoreError, TenantStore, Workload};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The name of the erasure's checkpoint.
const CONSUMER_NAME: &str = "erasure";
/// Maximum wait for the read models. Afterwards the erasure is retried.
const READ_MODEL_WAIT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the read models are checked.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Added to the key lease, for a load that began just before the fence was on disk.
const LEASE_MARGIN: Duration = Duration::from_millis(200);
/// How often the tombstones are compared with the logs, because a database may have been restored to an earlier state.
const COMPARISON_INTERVAL: Duration = Duration::from_secs(20);
/// How long a starting process waits for erasures that a restored database does not know.
const REAPPLY_TIMEOUT: Duration = Duration::from_mins(2);
/// Maximum streams of one read.
const PAGE_SIZE_MAX: u32 = 500;

/// Asks copies of the logs for erasures that the copies have and the logs do not. It ends within a bounded time.
pub type DerivedCopies =
    Arc<dyn Fn() -> BoxFuture<'static, Result<Vec<(TenantId, Uuid)>, StoreError>> + Send + Sync>;

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

/// Erases subjects on request, until cancelled.
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
    let compare = compare(executor.clone(), keyring.clone(), copies, cancel.clone());
    let compare_keys = crate::key_comparison::run(store.clone(), cancel.clone());
    let worker = Arc::new(ErasureWorker { executor, keyring, read_models });
    tokio::join!(store::feed::run(store, worker, followed, feed, cancel), compare, compare_keys);
}

async fn compare(executor: Executor, keyring: Keyring, copies: DerivedCopies, cancel: CancellationToken) {
    if let Err(error) = destroy_keys_again(&executor, &keyring).await {
        tracing::warn!(error = %Causes(&error), "keys cannot be compared with the logs");
    }
    let mut compared = ComparedLogs::default();
    let mut tombstones = HashSet::new();
    loop {
        if let Err(error) = destroy_restored_keys(&executor, &keyring, &mut tombstones).await {
            tracing::warn!(error = %Causes(&error), "keys cannot be compared with the logs");
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep(COMPARISON_INTERVAL) => {}
        }
        if let Err(error) = request_missing_erasures(&executor, &keyring, &copies, &mut compared).await {
            tracing::warn!(error = %Causes(&error), "erasures cannot be compared with the logs");
        }
    }
}

/// Repeats erasures after the database, the key file or both were restored from a backup.
/// Keys of subjects that the logs call erased are destroyed again.
/// Erasures that a log has lost are requested again.
/// Returns when these are done, so that the process serves no request before.
/// If the copies cannot be asked, a warning is logged and [`run`] asks them later.
///
/// # Errors
/// [`StoreError`] if the database or the key store fails.
pub async fn reapply(
    executor: &Executor,
    keyring: &Keyring,
    copies: &DerivedCopies,
) -> Result<(), StoreError> {
    destroy_keys_again(executor, keyring).await?;
    let mut compared = ComparedLogs::default();
    let again = request_missing_erasures(executor, keyring, copies, &mut compared).await?;
    if compared.copies.is_none() {
        tracing::warn!(
            "JetStream cannot be asked for erasures that database and keys know nothing of: they are looked for later"
        );
    }
    if again.is_empty() {
        return Ok(());
    }
    tracing::warn!(
        subjects = again.len(),
        "the database knows nothing of some erasures: they are done again"
    );
    let begun = Instant::now();
    for (tenant, subject) in again {
        while !is_erased(executor, tenant, subject).await? {
            if begun.elapsed() > REAPPLY_TIMEOUT {
                return Err(StoreError::Unavailable(
                    "erasures that the database knows nothing of are not done again yet".to_owned(),
                ));
            }
            sleep(POLL_INTERVAL).await;
        }
    }
    Ok(())
}

async fn is_erased(executor: &Executor, tenant: TenantId, subject: Uuid) -> Result<bool, StoreError> {
    let loaded = executor.load::<Subject>(tenant, subject).await?;
    Ok(loaded.is_some_and(|(loaded, _)| loaded.status == ErasureStatus::Erased))
}

/// The log ids in which lost erasures were already looked for.
/// A log that lost events continues under another id; later erasures are in the log before they are anywhere else.
#[derive(Default)]
struct ComparedLogs {
    keys: HashMap<TenantId, LogId>,
    /// `None` until the copies have answered.
    copies: Option<HashMap<TenantId, LogId>>,
}

/// Requests erasures that the key store or a copy of the logs has and the log does not.
async fn request_missing_erasures(
    executor: &Executor,
    keyring: &Keyring,
    copies: &DerivedCopies,
    compared: &mut ComparedLogs,
) -> Result<Vec<(TenantId, Uuid)>, StoreError> {
    let mut again = Vec::new();
    let heads = executor.store().heads().await?;
    let logs: HashMap<TenantId, LogId> = heads.iter().map(|head| (head.tenant, head.log_id)).collect();
    for erasure in keyring.erasures().await? {
        let (tenant, subject) = (erasure.tenant, erasure.subject);
        if logs.get(&tenant).is_none_or(|log| compared.keys.get(&tenant) == Some(log)) {
            continue;
        }
        if request_erasure(executor, tenant, subject).await? {
            again.push((tenant, subject));
        }
    }
    compared.keys.clone_from(&logs);
    // A new tenant has lost nothing.
    let is_replaced =
        |(tenant, log): (&TenantId, &LogId)| logs.get(tenant).is_some_and(|current| current != log);
    if compared.copies.as_ref().is_some_and(|known| !known.iter().any(is_replaced)) {
        return Ok(again);
    }
    let lost = match copies().await {
        Ok(lost) => lost,
        Err(error) => {
            tracing::debug!(error = %Causes(&error), "copies of the logs cannot be asked for erasures");
            return Ok(again);
        }
    };
    for (tenant, subject) in lost {
        // Another tenant may have used the slug before: ignore subjects that this tenant never had.
        if logs.contains_key(&tenant)
            && is_known(executor, keyring, tenant, subject).await?
            && request_erasure(executor, tenant, subject).await?
        {
            again.push((tenant, subject));
        }
    }
    compared.copies = Some(logs);
    Ok(again)
}

async fn is_known(
    executor: &Executor,
    keyring: &Keyring,
    tenant: TenantId,
    subject: Uuid,
) -> Result<bool, StoreError> {
    Ok(!keyring.streams(tenant, subject).await?.is_empty()
        || subject_of_user(executor, tenant, subject).await?.is_some()
        || subject_of_customer(executor, tenant, subject).await?.is_some())
}

/// Requests an erasure as the product. Returns `false` if the log already has it.
async fn request_erasure(executor: &Executor, tenant: TenantId, subject: Uuid) -> Result<bool, StoreError> {
    if executor.load::<Subject>(tenant, subject).await?.is_some() {
        return Ok(false);
    }
    let context = CommandContext::new(tenant, Principal::system(CONSUMER_NAME));
    let command = RequestErasure { reason: None };
    let asked = executor.execute::<Subject>(&context, subject, command, CommandSideEffects::default()).await;
    asked.map(|_| true).map_err(unavailable)
}

/// Destroys keys again after the key store has lost tombstones: a standby that took over, or a restored copy, may have
/// keys that were destroyed since.
async fn destroy_restored_keys(
    executor: &Executor,
    keyring: &Keyring,
    tombstones: &mut HashSet<(TenantId, Uuid)>,
) -> Result<(), StoreError> {
    let now: HashSet<_> = destroyed_keys(keyring).await?;
    if !tombstones.is_subset(&now) {
        tracing::error!("the store of keys has lost tombstones: keys that were destroyed may be back");
        destroy_keys_again(executor, keyring).await?;
    }
    metrics::gauge!("annals_keys_destroyed").set(now.len() as f64);
    *tombstones = now;
    Ok(())
}

async fn destroyed_keys(keyring: &Keyring) -> Result<HashSet<(TenantId, Uuid)>, StoreError> {
    let destroyed = keyring.erasures().await?.into_iter().filter(|erasure| erasure.is_destroyed);
    Ok(destroyed.map(|erasure| (erasure.tenant, erasure.subject)).collect())
}

async fn destroy_keys_again(executor: &Executor, keyring: &Keyring) -> Result<(), StoreError> {
    let known = destroyed_keys(keyring).await?;
    let beginning = format!("{}/", Subject::CATEGORY);
    for head in executor.store().heads().await? {
        let handle = executor.store().tenant(head.tenant);
        let mut after: Option<StreamName> = None;
        loop {
            let streams = handle.streams(&beginning, after.as_ref(), PAGE_SIZE_MAX).await?;
            for subject in streams.iter().filter_map(StreamName::uuid) {
                if !known.contains(&(head.tenant, subject))
                    && is_erased(executor, head.tenant, subject).await?
                {
                    tracing::warn!(tenant = %head.tenant, %subject, "the key of an erased subject was back");
                    keyring.destroy(head.tenant, subject).await?;
                }
            }
            if streams.len() < PAGE_SIZE_MAX as usize {
                break;
            }
            after = streams.last().cloned();
        }
    }
    Ok(())
}

impl Consumer for ErasureWorker {
    fn name(&self) -> &str {
        CONSUMER_NAME
    }

    /// An erasure must also work if the key of the subject is lost, so it must not need that key.
    fn reads_personal_data(&self) -> bool {
        false
    }

    async fn handle(&self, from: u64, batch: Batch) -> Result<BatchOutcome, StoreError> {
        let Some(to) = batch.events.last().map(|event| event.position) else {
            return Ok(BatchOutcome::Advanced(from));
        };
        let requests: Vec<ErasureRequest> = batch.events.iter().filter_map(erasure_request).collect();
        let tenant = self.executor.store().tenant(batch.tenant);
        if !requests.is_empty() {
            self.erase(&tenant, &requests).await?;
        }
        let transaction = tenant.begin_worker_transaction().await?;
        if !transaction.move_checkpoint(CONSUMER_NAME, batch.log_id, from, to).await? {
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
    let Ok(Some(SubjectEvent::ErasureRequested(_))) = event.decode::<SubjectEvent>() else { return None };
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
                let position =
                    commands::privacy::erasure::erase_stream(&self.executor, &context, stream).await?;
                erased_to = erased_to.max(position.unwrap_or(0));
            }
            self.wait_for_read_models(tenant, erased_to).await?;
            let context =
                CommandContext { command_id: Some(ids::derived_id(request.event, "erased")), ..context };
            let command = RecordErasure { key, streams, scrubbed_to: erased_to };
            let recorded = self.executor.execute::<Subject>(
                &context,
                request.subject,
                command,
                CommandSideEffects::default(),
            );
            recorded.await.map_err(unavailable)?;
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

fn unavailable(error: ExecuteError<SubjectRejection>) -> StoreError {
    match error {
        ExecuteError::Unavailable(error) => error,
        ExecuteError::TenantUnknown => StoreError::TenantUnknown,
        error => StoreError::Unavailable(error.to_string()),
    }
}
