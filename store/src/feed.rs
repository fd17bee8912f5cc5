//! Feeds a consumer of the log, such as a projection or a saga.
//!
//! It delivers contiguous batches of each tenant's events after the consumer's checkpoint.
//! A tenant has at most one batch in progress.
//!
//! JetStream delivers the events early, but it may lose, repeat or reorder them:
//! events at or below the checkpoint are dropped, and missing events are read from the log.
//! Heads are compared with checkpoints periodically, so that a lost last message is detected.
//! The consumer moves its checkpoint by compare-and-swap, in the transaction with the effect of the batch.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use schemas::engine::{LogId, RecordedEvent, TenantId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::invariants::first_gap;
use crate::{
    Causes, Checkpoint, Head, Invariant, LogFilter, Store, StoreError, TenantAssignment, TenantStore,
    VIOLATION_RETRY_INTERVAL, Workload,
};

mod cursor;

use cursor::FeedCursor;

use crate::assignment::AssignmentChanges;

/// Events of one tenant with contiguous positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The tenant of the events.
    pub tenant: TenantId,
    /// The log of the positions.
    pub log_id: LogId,
    /// In position order, with personal data decrypted if the consumer reads it.
    pub events: Vec<RecordedEvent>,
}

/// Processes the events of a tenant in order and stores a checkpoint.
pub trait Consumer: Send + Sync + 'static {
    /// The name of the consumer's checkpoint.
    fn name(&self) -> &str;

    /// Processes the events after position `from`, and moves the checkpoint in the same transaction.
    ///
    /// # Errors
    /// Any [`StoreError`]; the batch is retried with backoff, after a violation with a long pause.
    fn handle(
        &self,
        from: u64,
        batch: Batch,
    ) -> impl Future<Output = Result<BatchOutcome, StoreError>> + Send;

    /// Whether the feed decrypts personal data. A consumer that returns `false` continues when a key is missing.
    fn reads_personal_data(&self) -> bool {
        true
    }

    /// Whether an operator has paused the tenant; if so, nothing is read for it. Checked before every batch.
    fn is_paused(&self, _tenant: TenantId) -> impl Future<Output = Result<bool, StoreError>> + Send {
        std::future::ready(Ok(false))
    }
}

/// The outcome of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchOutcome {
    /// The checkpoint is now at this position.
    Advanced(u64),
    /// Another process had moved the checkpoint; nothing was changed.
    Conflict,
    /// An event blocks this consumer until an operator acts. The feed retries with backoff.
    Stopped,
}

/// Settings of a feed.
#[derive(Debug, Clone, Copy)]
pub struct FeedSettings {
    /// Maximum events per batch.
    pub batch: usize,
    /// Maximum tenants processed at once.
    pub max_concurrent_tenants: usize,
    /// Interval between comparisons of heads and checkpoints.
    pub compare_interval: Duration,
    /// The workload that is shared with other processes; `None` to process all tenants.
    pub workload: Option<Workload>,
}

impl Default for FeedSettings {
    fn default() -> Self {
        Self {
            batch: 500,
            max_concurrent_tenants: 6,
            compare_interval: Duration::from_secs(1),
            workload: None,
        }
    }
}

/// Maximum events buffered over all tenants; events beyond are read from the log later.
const FEED_BUFFER_EVENTS_MAX: usize = 20_000;
/// Delay after another process has moved the checkpoint.
const CONTENTION_DELAY: Duration = Duration::from_millis(50);
/// Interval between checks of a paused tenant.
const PAUSE_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// First and maximum delay after a failure.
const BACKOFF_BOUNDS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Feeds the consumer until cancelled. Failures are retried with backoff.
pub async fn run<C: Consumer>(
    store: Store,
    consumer: Arc<C>,
    followed: impl Stream<Item = Batch> + Send,
    settings: FeedSettings,
    cancel: CancellationToken,
) {
    let assignment = settings.workload.map(|workload| store.tenant_assignment(workload));
    let mut changes = assignment.as_ref().map(TenantAssignment::changes);
    let mut feed = Feed {
        store,
        assignment,
        consumer,
        settings,
        cursors: HashMap::new(),
        ready: VecDeque::new(),
        queued: HashSet::new(),
        busy: 0,
        buffered: 0,
        tasks: FuturesUnordered::new(),
        comparing: false,
    };
    let mut followed = std::pin::pin!(followed.fuse());
    let mut compare = tokio::time::interval(settings.compare_interval);
    compare.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        feed.start_ready();
        tokio::select! {
            () = cancel.cancelled() => break,
            _ = compare.tick() => feed.compare(),
            () = wait_for_change(&mut changes) => feed.compare(),
            Some(done) = feed.tasks.next() => feed.done(done),
            Some(batch) = followed.next() => feed.offer(batch),
        }
    }
    // Batches in progress are dropped. Each is one transaction, so this is safe at any point.
}

/// Waits until the tenants assigned to this process change.
async fn wait_for_change(changes: &mut Option<AssignmentChanges>) {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

enum FeedEvent {
    BatchDone { tenant: TenantId, result: Result<BatchProgress, StoreError> },
    Waited(TenantId),
    Compared(Result<(Vec<Head>, HashMap<TenantId, Checkpoint>), StoreError>),
}

/// The progress of one batch of a tenant.
enum BatchProgress {
    /// The checkpoint is at this position of this log.
    At(LogId, u64),
    /// Another process works on this tenant.
    Conflict,
    Stopped,
    Paused,
}

struct Feed<C> {
    store: Store,
    assignment: Option<TenantAssignment>,
    consumer: Arc<C>,
    settings: FeedSettings,
    cursors: HashMap<TenantId, FeedCursor>,
    ready: VecDeque<TenantId>,
    queued: HashSet<TenantId>,
    busy: usize,
    buffered: usize,
    tasks: FuturesUnordered<BoxFuture<'static, FeedEvent>>,
    comparing: bool,
}

impl<C: Consumer> Feed<C> {
    /// Whether the tenant is assigned to this process.
    fn owns(&self, tenant: TenantId) -> bool {
        self.assignment.as_ref().is_none_or(|assignment| assignment.owns(tenant))
    }

    fn offer(&mut self, batch: Batch) {
        if !self.owns(batch.tenant) {
            return;
        }
        let cursor = self.cursors.entry(batch.tenant).or_default();
        let before = cursor.buffered();
        cursor.offer(batch.log_id, batch.events, FEED_BUFFER_EVENTS_MAX.saturating_sub(self.buffered));
        self.buffered = self.buffered + cursor.buffered() - before;
        self.queue(batch.tenant);
    }

    /// Queues a tenant that has work and is neither busy nor waiting.
    fn queue(&mut self, tenant: TenantId) {
        if self.cursors.get(&tenant).is_some_and(FeedCursor::is_due)
            && self.owns(tenant)
            && self.queued.insert(tenant)
        {
            self.ready.push_back(tenant);
        }
    }

    fn start_ready(&mut self) {
        while self.busy < self.settings.max_concurrent_tenants
            && let Some(tenant) = self.ready.pop_front()
        {
            self.queued.remove(&tenant);
            if !self.owns(tenant) {
                continue;
            }
            let Some(cursor) = self.cursors.get_mut(&tenant) else { continue };
            let before = cursor.buffered();
            let prepared = cursor.begin(self.settings.batch);
            self.buffered = self.buffered + cursor.buffered() - before;
            self.busy += 1;
            let (store, consumer, limit) =
                (self.store.clone(), Arc::clone(&self.consumer), self.settings.batch);
            // Each batch is a task: tenants use all cores, and a panic fails only the batch of its tenant.
            let prepared = AbortOnDropHandle::new(tokio::spawn(async move {
                process_batch(&store, consumer.as_ref(), tenant, prepared, limit).await
            }));
            let outcome = prepared.map(move |outcome| {
                let panicked = |error| Err(StoreError::Corrupt(format!("a batch was given up: {error}")));
                FeedEvent::BatchDone { tenant, result: outcome.unwrap_or_else(panicked) }
            });
            self.tasks.push(outcome.boxed());
        }
    }

    fn compare(&mut self) {
        if std::mem::replace(&mut self.comparing, true) {
            return;
        }
        let (store, consumer) = (self.store.clone(), Arc::clone(&self.consumer));
        self.tasks.push(
            async move {
                let read = async {
                    let checkpoints = store.checkpoints(Some(consumer.name())).await?;
                    let heads = store.heads().await?;
                    Ok((heads, checkpoints.into_iter().map(|(tenant, _, at)| (tenant, at)).collect()))
                };
                FeedEvent::Compared(read.await)
            }
            .boxed(),
        );
    }

    fn done(&mut self, done: FeedEvent) {
        match done {
            FeedEvent::BatchDone { tenant, result } => {
                self.busy -= 1;
                let Some(cursor) = self.cursors.get_mut(&tenant) else { return };
                let before = cursor.buffered();
                let wait = match result {
                    Ok(BatchProgress::At(log_id, checkpoint)) => {
                        cursor.end(log_id, checkpoint);
                        None
                    }
                    // Another process is faster; leave the tenant to it while it makes progress.
                    Ok(BatchProgress::Conflict) => {
                        cursor.mark_conflict();
                        Some(CONTENTION_DELAY)
                    }
                    Ok(BatchProgress::Stopped) => Some(backoff(cursor.fail())),
                    Ok(BatchProgress::Paused) => {
                        cursor.pause();
                        Some(PAUSE_POLL_INTERVAL)
                    }
                    // It is already reported.
                    Err(StoreError::InvariantViolated { invariant, position }) => {
                        if invariant == Invariant::CheckpointWithinHead {
                            cursor.refuse(position);
                        }
                        cursor.fail();
                        Some(VIOLATION_RETRY_INTERVAL)
                    }
                    Err(error) => {
                        tracing::warn!(consumer = self.consumer.name(), %tenant, error = %Causes(&error), "a batch failed; it is tried again");
                        Some(backoff(cursor.fail()))
                    }
                };
                self.buffered = self.buffered + cursor.buffered() - before;
                if let Some(wait) = wait {
                    self.tasks
                        .push(tokio::time::sleep(wait).map(move |()| FeedEvent::Waited(tenant)).boxed());
                } else {
                    self.queue(tenant);
                }
            }
            FeedEvent::Waited(tenant) => {
                if let Some(cursor) = self.cursors.get_mut(&tenant) {
                    cursor.resume();
                }
                self.queue(tenant);
            }
            FeedEvent::Compared(result) => {
                self.comparing = false;
                match result {
                    Ok((heads, checkpoints)) => self.apply_comparison(&heads, &checkpoints),
                    Err(error) => {
                        tracing::warn!(consumer = self.consumer.name(), error = %Causes(&error), "heads cannot be compared");
                    }
                }
            }
        }
    }

    fn apply_comparison(&mut self, heads: &[Head], checkpoints: &HashMap<TenantId, Checkpoint>) {
        let mut lag = 0;
        for head in heads {
            let stored = checkpoints.get(&head.tenant);
            let checkpoint = stored.map_or(0, |stored| stored.position);
            let cursor = self.cursors.entry(head.tenant).or_default();
            let before = cursor.buffered();
            if cursor.observe(head.log_id, head.position, checkpoint) {
                tracing::warn!(consumer = self.consumer.name(), tenant = %head.tenant, log = %head.log_id,
                    head = head.position, "the log ends before what was followed; following starts from the checkpoint");
            }
            if let Some(stored) = stored {
                cursor.doubt(stored.position, is_beyond(*stored, head));
            }
            self.buffered = self.buffered + cursor.buffered() - before;
            lag += head.position.saturating_sub(checkpoint);
            self.queue(head.tenant);
        }
        metrics::gauge!("annals_consumer_lag_events", "consumer" => self.consumer.name().to_owned())
            .set(lag as f64);
    }
}

fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF_BOUNDS;
    first.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(10))).min(longest)
}

/// Processes one batch: reads the checkpoint if it is unknown, then takes buffered events or reads the log.
async fn process_batch<C: Consumer>(
    store: &Store,
    consumer: &C,
    tenant: TenantId,
    prepared: cursor::CursorBatch,
    limit: usize,
) -> Result<BatchProgress, StoreError> {
    if consumer.is_paused(tenant).await? {
        return Ok(BatchProgress::Paused);
    }
    let handle = store.tenant(tenant);
    let from = match prepared.checkpoint {
        Some(position) => position,
        None => look_up_checkpoint(&handle, consumer.name(), prepared.refused).await?,
    };
    let batch = if let Some((log_id, events)) = prepared.events_after(from) {
        Batch { tenant, log_id, events }
    } else {
        let page = handle.read_log_page(from, None, limit, &LogFilter::default()).await?;
        Batch { tenant, log_id: page.log_id, events: page.events }
    };
    if batch.events.is_empty() {
        return Ok(BatchProgress::At(batch.log_id, from));
    }
    if let Some(gap) = first_gap(from, batch.events.iter().map(|event| event.position)) {
        return Err(handle.violation(Invariant::LogPositions, gap));
    }
    let log_id = batch.log_id;
    let batch = if consumer.reads_personal_data() {
        Batch { events: handle.open(batch.events).await?, ..batch }
    } else {
        batch
    };
    match consumer.handle(from, batch).await? {
        BatchOutcome::Advanced(position) => {
            store.announce_checkpoint(consumer.name(), tenant, position);
            Ok(BatchProgress::At(log_id, position))
        }
        BatchOutcome::Conflict => Ok(BatchProgress::Conflict),
        BatchOutcome::Stopped => Ok(BatchProgress::Stopped),
    }
}

/// The position of a consumer's checkpoint; 0 before its first move.
///
/// # Errors
/// A violation if the checkpoint is beyond the head, or if it is the one that was.
async fn look_up_checkpoint(
    tenant: &TenantStore,
    consumer: &str,
    refused: Option<u64>,
) -> Result<u64, StoreError> {
    let transaction = tenant.begin_worker_transaction().await?;
    let Some(checkpoint) = transaction.checkpoint(consumer).await? else {
        transaction.commit().await?;
        return Ok(0);
    };
    // The head is read later, so it is at least as new.
    let head = transaction.head().await?;
    transaction.commit().await?;
    if is_beyond(checkpoint, &head) || refused == Some(checkpoint.position) {
        return Err(tenant.violation(Invariant::CheckpointWithinHead, checkpoint.position));
    }
    Ok(checkpoint.position)
}

/// Whether a checkpoint is beyond the head of its log. A checkpoint of a replaced log has another head.
fn is_beyond(checkpoint: Checkpoint, head: &Head) -> bool {
    checkpoint.log_id == head.log_id && checkpoint.position > head.position
}
