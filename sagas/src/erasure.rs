//! The erasure of a subject: fence, wait until no process holds its key, destroy the key, forget what stands beside the log,
//! record it. Each step may be repeated, so a crash anywhere costs time alone (`docs/personal-data.md`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use access::Principal;
use commands::privacy::erasure::{subject_of_customer, subject_of_user};
use commands::{CommandContext, ExecuteError, Executor, Extras, Rules, Subject, SubjectRejection};
use futures::Stream;
use futures::future::{BoxFuture, try_join_all};
use keyring::Keyring;
use schemas::engine::{Event, LogId, Metadata, RecordedEvent, StreamName, TenantId, ids};
use schemas::privacy::subject::{ErasureStatus, RecordErasure, RequestErasure, SubjectEvent};
use store::feed::{Batch, Consumer, FeedSettings, Handled};
use store::{Causes, SharedWork, StoreError, TenantStore};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The name of the erasure's checkpoint.
const CONSUMER: &str = "erasure";
/// How long read models are waited for, until the erasure is tried again.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often they are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Added to the lease, for a load that began just before the fence was on disk.
const MARGIN: Duration = Duration::from_millis(200);
/// How often what was erased is compared with what the logs say: a database may have gone back to an earlier state.
const COMPARED_EVERY: Duration = Duration::from_secs(20);
/// How long a process waits before it serves, for erasures that a restored database knows nothing of.
const REAPPLIED_WITHIN: Duration = Duration::from_mins(2);
/// Streams of one look.
const PAGE: u32 = 500;

/// Asks copies of the logs whose erasure they tell of and the logs do not, within a bounded time.
pub type Copies =
    Arc<dyn Fn() -> BoxFuture<'static, Result<Vec<(TenantId, Uuid)>, StoreError>> + Send + Sync>;

/// Carries out erasures.
#[derive(Clone)]
struct Eraser {
    executor: Executor,
    keyring: Keyring,
    /// Checkpoints of the read models, which must have come past what was forgotten.
    read_models: Vec<String>,
}

/// An erasure that was asked for.
struct Request {
    subject: Uuid,
    event: Uuid,
    /// Of the event that asked.
    metadata: Metadata,
}

/// Carries out erasures as they are asked for, until cancelled. `read_models` names the checkpoints of all read models that
/// show personal data, `copies` is asked when this begins, until it has answered, and when a log was replaced.
pub async fn run(
    executor: Executor,
    keyring: Keyring,
    read_models: Vec<String>,
    copies: Copies,
    followed: impl Stream<Item = Batch> + Send,
    cancel: CancellationToken,
) {
    let store = executor.store().clone();
    let feed = FeedSettings { work: Some(SharedWork::Sagas), ..FeedSettings::default() };
    let compare = compare(executor.clone(), keyring.clone(), copies, cancel.clone());
    let compare_keys = crate::key_comparison::run(store.clone(), cancel.clone());
    let eraser = Arc::new(Eraser { executor, keyring, read_models });
    tokio::join!(store::feed::run(store, eraser, followed, feed, cancel), compare, compare_keys);
}

async fn compare(executor: Executor, keyring: Keyring, copies: Copies, cancel: CancellationToken) {
    if let Err(error) = destroy_again(&executor, &keyring).await {
        tracing::warn!(error = %Causes(&error), "keys cannot be compared with the logs");
    }
    let mut compared = Compared::default();
    let mut tombstones = HashSet::new();
    loop {
        if let Err(error) = destroy_lost(&executor, &keyring, &mut tombstones).await {
            tracing::warn!(error = %Causes(&error), "keys cannot be compared with the logs");
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep(COMPARED_EVERY) => {}
        }
        if let Err(error) = ask_again(&executor, &keyring, &copies, &mut compared).await {
            tracing::warn!(error = %Causes(&error), "erasures cannot be compared with the logs");
        }
    }
}

/// Makes what was erased stay so when the database, the file of keys or both come from a backup: keys of subjects that the
/// logs call erased are destroyed again, and erasures that a log does not know of any more are asked for again. Returns when
/// these are done, so that nobody is served before. Where the copies cannot be asked, that is told and left to
/// [`run`].
pub async fn reapply(executor: &Executor, keyring: &Keyring, copies: &Copies) -> Result<(), StoreError> {
    destroy_again(executor, keyring).await?;
    let mut compared = Compared::default();
    let again = ask_again(executor, keyring, copies, &mut compared).await?;
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
            if begun.elapsed() > REAPPLIED_WITHIN {
                return Err(StoreError::Unavailable(
                    "erasures that the database knows nothing of are not done again yet".to_owned(),
                ));
            }
            sleep(LOOK).await;
        }
    }
    Ok(())
}

async fn is_erased(executor: &Executor, tenant: TenantId, subject: Uuid) -> Result<bool, StoreError> {
    let loaded = executor.load::<Subject>(tenant, subject).await?;
    Ok(loaded.is_some_and(|(loaded, _)| loaded.status == ErasureStatus::Erased))
}

/// The logs, by their ids, in which erasures were looked for: one that lost events goes on under another id, and what is
/// erased since stands in the log first.
#[derive(Default)]
struct Compared {
    keys: HashMap<TenantId, LogId>,
    /// `None` before the copies have answered.
    copies: Option<HashMap<TenantId, LogId>>,
}

/// Asks for erasures that a log does not know of and the file of keys or a copy of the logs does.
async fn ask_again(
    executor: &Executor,
    keyring: &Keyring,
    copies: &Copies,
    compared: &mut Compared,
) -> Result<Vec<(TenantId, Uuid)>, StoreError> {
    let mut again = Vec::new();
    let heads = executor.store().heads().await?;
    let logs: HashMap<TenantId, LogId> = heads.iter().map(|head| (head.tenant, head.log_id)).collect();
    for erasure in keyring.erasures().await? {
        let (tenant, subject) = (erasure.tenant, erasure.subject);
        if logs.get(&tenant).is_none_or(|log| compared.keys.get(&tenant) == Some(log)) {
            continue;
        }
        if request(executor, tenant, subject).await? {
            again.push((tenant, subject));
        }
    }
    compared.keys.clone_from(&logs);
    // A tenant that is new has lost nothing.
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
        // A slug may have been another tenant's: whom this one never knew is not its subject.
        if logs.contains_key(&tenant)
            && is_known(executor, keyring, tenant, subject).await?
            && request(executor, tenant, subject).await?
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

/// Asks for an erasure on behalf of the product; false where the log knows of it.
async fn request(executor: &Executor, tenant: TenantId, subject: Uuid) -> Result<bool, StoreError> {
    if executor.load::<Subject>(tenant, subject).await?.is_some() {
        return Ok(false);
    }
    let context = CommandContext::new(tenant, Principal::system(CONSUMER));
    let command = RequestErasure { reason: None };
    let asked = executor.execute::<Subject>(&context, subject, command, Extras::default()).await;
    asked.map(|_| true).map_err(unavailable)
}

/// Destroys keys again when the store of keys has lost tombstones: a standby that took over, or a copy that was put back, may
/// have keys that were destroyed since.
async fn destroy_lost(
    executor: &Executor,
    keyring: &Keyring,
    tombstones: &mut HashSet<(TenantId, Uuid)>,
) -> Result<(), StoreError> {
    let now: HashSet<_> = destroyed(keyring).await?;
    if !tombstones.is_subset(&now) {
        tracing::error!("the store of keys has lost tombstones: keys that were destroyed may be back");
        destroy_again(executor, keyring).await?;
    }
    metrics::gauge!("annals_keys_destroyed").set(now.len() as f64);
    *tombstones = now;
    Ok(())
}

async fn destroyed(keyring: &Keyring) -> Result<HashSet<(TenantId, Uuid)>, StoreError> {
    let destroyed = keyring.erasures().await?.into_iter().filter(|erasure| erasure.is_destroyed);
    Ok(destroyed.map(|erasure| (erasure.tenant, erasure.subject)).collect())
}

async fn destroy_again(executor: &Executor, keyring: &Keyring) -> Result<(), StoreError> {
    let known = destroyed(keyring).await?;
    let beginning = format!("{}/", Subject::CATEGORY);
    for head in executor.store().heads().await? {
        let handle = executor.store().tenant(head.tenant);
        let mut after: Option<StreamName> = None;
        loop {
            let streams = handle.streams(&beginning, after.as_ref(), PAGE).await?;
            for subject in streams.iter().filter_map(StreamName::uuid) {
                if !known.contains(&(head.tenant, subject))
                    && is_erased(executor, head.tenant, subject).await?
                {
                    tracing::warn!(tenant = %head.tenant, %subject, "the key of an erased subject was back");
                    keyring.destroy(head.tenant, subject).await?;
                }
            }
            if streams.len() < PAGE as usize {
                break;
            }
            after = streams.last().cloned();
        }
    }
    Ok(())
}

impl Consumer for Eraser {
    fn name(&self) -> &str {
        CONSUMER
    }

    /// Erasing is the way out where the key of a person is lost for good, so it must not wait for that key.
    fn reads_personal_data(&self) -> bool {
        false
    }

    async fn handle(&self, from: u64, batch: Batch) -> Result<Handled, StoreError> {
        let Some(to) = batch.events.last().map(|event| event.position) else {
            return Ok(Handled::Moved(from));
        };
        let requests: Vec<Request> = batch.events.iter().filter_map(request_of).collect();
        let tenant = self.executor.store().tenant(batch.tenant);
        if !requests.is_empty() {
            self.erase(&tenant, &requests).await?;
        }
        let transaction = tenant.begin_projection().await?;
        if !transaction.move_checkpoint(CONSUMER, batch.log_id, from, to).await? {
            return Ok(Handled::Lost);
        }
        transaction.commit().await?;
        Ok(Handled::Moved(to))
    }
}

fn request_of(event: &RecordedEvent) -> Option<Request> {
    if event.stream.category() != SubjectEvent::CATEGORY {
        return None;
    }
    let Ok(Some(SubjectEvent::ErasureRequested(_))) = event.decode::<SubjectEvent>() else { return None };
    let metadata = event.metadata.clone();
    Some(Request { subject: event.stream.uuid()?, event: event.event_id, metadata })
}

impl Eraser {
    async fn erase(&self, tenant: &TenantStore, requests: &[Request]) -> Result<(), StoreError> {
        let id = tenant.id();
        try_join_all(requests.iter().map(|request| self.keyring.fence(id, request.subject))).await?;
        // Whoever loaded a key before the fence has none after this.
        sleep(self.keyring.lease() + MARGIN).await;
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
                ..CommandContext::new(id, Principal::system(CONSUMER))
            };
            let mut forgotten = 0;
            for stream in &streams {
                let position = commands::privacy::erasure::forget(&self.executor, &context, stream).await?;
                forgotten = forgotten.max(position.unwrap_or(0));
            }
            self.read_models_at(tenant, forgotten).await?;
            let context =
                CommandContext { command_id: Some(ids::derived_id(request.event, "erased")), ..context };
            let command = RecordErasure { key, streams, scrubbed_to: forgotten };
            let recorded =
                self.executor.execute::<Subject>(&context, request.subject, command, Extras::default());
            recorded.await.map_err(unavailable)?;
            metrics::counter!("annals_subjects_erased_total").increment(1);
            let request_id = request.metadata.request_id.as_ref().map(tracing::field::display);
            tracing::info!(tenant = %id, subject = %request.subject, request_id, "a subject was erased");
        }
        Ok(())
    }

    /// Waits until every read model has come to a position.
    async fn read_models_at(&self, tenant: &TenantStore, position: u64) -> Result<(), StoreError> {
        let begun = Instant::now();
        loop {
            let mut behind = None;
            let transaction = tenant.begin_projection().await?;
            for name in &self.read_models {
                let at = transaction.checkpoint(name).await?.map_or(0, |at| at.position);
                if at < position {
                    behind = Some(name);
                }
            }
            transaction.commit().await?;
            let Some(name) = behind else { return Ok(()) };
            if begun.elapsed() > PATIENCE {
                return Err(StoreError::Unavailable(format!(
                    "the read model {name} has not come to position {position} yet"
                )));
            }
            sleep(LOOK).await;
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
