//! Feeds a consumer of the log, such as a projection or a saga.
//!
//! It delivers contiguous batches of each tenant's events after the consumer's checkpoint.
//! A tenant has at most one batch in progress.
//!
//! JetStream delivers the events early, but it may lose, repeat or reorder them:
//! events at or below the checkpoint are dropped, and missing events are read from the log.
//! Heads that have moved are compared with checkpoints periodically, so that a lost last message is detected.
//! The process watches the heads once for all feeds, and a tenant at rest costs a feed nothing.
//! The consumer moves its checkpoint by compare-and-swap, in the transaction with the effect of the batch.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use schemas::engine::{LogId, RecordedEvent, TenantId};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::advances::Advance;
use crate::checkpoints::Unreached;
use crate::signals::MovedHeads;
use crate::{Causes, Invariant, Store, StoreError, TenantAssignment, VIOLATION_RETRY_INTERVAL, Workload};

mod batch;
mod cursor;

use batch::{BatchProgress, is_beyond, process_batch};
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

    /// Processes the events of a batch, and moves the checkpoint to the last of them in the same transaction.
    /// The checkpoint is at `from`, or between `from` and the first event: the events between them have no effect.
    ///
    /// # Errors
    /// Any [`StoreError`]; the batch is retried with backoff, after a violation with a long pause.
    fn handle(
        &self,
        from: u64,
        batch: Batch,
    ) -> impl Future<Output = Result<BatchOutcome, StoreError>> + Send;

    /// Whether the event may have an effect. Personal data in it is not decrypted.
    /// The feed processes a batch without such events by itself.
    fn concerns(&self, _event: &RecordedEvent) -> bool {
        true
    }

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
    /// The events up to this position have no effect, and nothing was changed. The feed moves the checkpoint soon,
    /// together with those of other consumers.
    Unaffected(u64),
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
    /// Interval between comparisons of moved heads with checkpoints. It needs no statement.
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
/// Interval between comparisons of all heads and checkpoints in the database: no consumer depends on it.
const FULL_COMPARE_INTERVAL: Duration = Duration::from_mins(1);
/// Maximum moved tenants whose checkpoints are looked up one by one; beyond, all are compared by one statement.
const LOOK_UPS_MAX: usize = 100;
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
    let (refused, mut refusals) = tokio::sync::mpsc::unbounded_channel();
    let mut feed = Feed {
        name: consumer.name().into(),
        refused,
        moved: store.0.signals.moved_heads(),
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
        compared_at: None,
        lag_may_differ: true,
    };
    let mut followed = std::pin::pin!(followed.fuse());
    let mut compare = tokio::time::interval(settings.compare_interval);
    compare.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        feed.start_ready();
        tokio::select! {
            () = cancel.cancelled() => break,
            _ = compare.tick() => feed.compare_moved(),
            () = wait_for_change(&mut changes) => feed.compare(),
            Some(done) = feed.tasks.next() => feed.done(done),
            Some(tenant) = refusals.recv() => feed.advance_refused(tenant),
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
    Compared(Result<Vec<Unreached>, StoreError>),
}

struct Feed<C> {
    name: Arc<str>,
    /// Receives the tenants whose checkpoint could not be advanced.
    refused: UnboundedSender<TenantId>,
    moved: MovedHeads,
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
    /// All heads are being compared. Moved heads wait.
    comparing: bool,
    /// When all heads were compared; `None` if they must be compared again.
    compared_at: Option<Instant>,
    /// The lag may differ from the one that was reported. Tenants at rest cost no report.
    lag_may_differ: bool,
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
        self.lag_may_differ = true;
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

    /// Compares the heads that have moved with what is known here, or all heads if that is due.
    fn compare_moved(&mut self) {
        if self.comparing {
            return;
        }
        let moved = self.moved.take();
        let is_fresh = self.compared_at.is_some_and(|at| at.elapsed() < FULL_COMPARE_INTERVAL);
        match moved {
            Some(moved) if is_fresh => {
                // The tenants of other processes are compared when they are assigned to this one.
                let moved: Vec<_> = moved.into_iter().filter(|(tenant, ..)| self.owns(*tenant)).collect();
                let is_unknown =
                    |tenant: &TenantId| !self.cursors.get(tenant).is_some_and(FeedCursor::knows_checkpoint);
                if moved.iter().filter(|(tenant, ..)| is_unknown(tenant)).count() > LOOK_UPS_MAX {
                    return self.compare();
                }
                for (tenant, log_id, head) in moved {
                    let cursor = self.cursors.entry(tenant).or_default();
                    let before = cursor.buffered();
                    // The notification may be older than the checkpoint, so the database decides.
                    if !cursor.may_move_to(log_id, head) {
                        self.compared_at = None;
                        continue;
                    }
                    cursor.observe(log_id, head, None);
                    self.buffered = self.buffered + cursor.buffered() - before;
                    self.queue(tenant);
                }
                self.report_lag();
            }
            _ => self.compare(),
        }
    }

    /// Compares all heads with the checkpoints in the database.
    fn compare(&mut self) {
        if std::mem::replace(&mut self.comparing, true) {
            return;
        }
        // If it fails, the next round compares again.
        self.compared_at = None;
        let (store, consumer) = (self.store.clone(), Arc::clone(&self.consumer));
        self.tasks.push(async move { FeedEvent::Compared(store.unreached(consumer.name()).await) }.boxed());
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
                    Ok(BatchProgress::Unaffected { log_id, stored, position }) => {
                        if cursor.skip(log_id, stored, position) {
                            let refused = self.refused.clone();
                            let advance = Advance { log_id, from: stored, to: position, refused };
                            self.store.0.advances.put(tenant, &self.name, advance);
                        }
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
                    self.wait(tenant, wait);
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
                    Ok(unreached) => self.apply_comparison(&unreached),
                    Err(error) => {
                        tracing::warn!(consumer = self.consumer.name(), error = %Causes(&error), "heads cannot be compared");
                    }
                }
            }
        }
    }

    /// The stored checkpoint is not the expected one: it is looked up after a delay.
    fn advance_refused(&mut self, tenant: TenantId) {
        let Some(cursor) = self.cursors.get_mut(&tenant) else { return };
        // A batch in progress fails by itself.
        if cursor.is_idle() {
            let before = cursor.buffered();
            let wait = backoff(cursor.fail());
            self.buffered = self.buffered + cursor.buffered() - before;
            self.wait(tenant, wait);
        }
    }

    fn wait(&mut self, tenant: TenantId, wait: Duration) {
        self.lag_may_differ = true;
        self.tasks.push(tokio::time::sleep(wait).map(move |()| FeedEvent::Waited(tenant)).boxed());
    }

    fn apply_comparison(&mut self, unreached: &[Unreached]) {
        // The tenants of this process may have changed.
        self.lag_may_differ = true;
        self.compared_at = Some(Instant::now());
        for Unreached { head, checkpoint: stored } in unreached {
            if !self.owns(head.tenant) {
                continue;
            }
            let checkpoint = stored.map_or(0, |stored| stored.position);
            let cursor = self.cursors.entry(head.tenant).or_default();
            let before = cursor.buffered();
            if cursor.observe(head.log_id, head.position, Some(checkpoint)) {
                tracing::warn!(consumer = self.consumer.name(), tenant = %head.tenant, log = %head.log_id,
                    head = head.position, "the log ends before what was followed; following starts from the checkpoint");
            }
            if let Some(stored) = stored {
                cursor.doubt(stored.position, is_beyond(*stored, head));
            }
            self.buffered = self.buffered + cursor.buffered() - before;
            self.queue(head.tenant);
        }
        self.report_lag();
    }

    fn report_lag(&mut self) {
        if !std::mem::take(&mut self.lag_may_differ) {
            return;
        }
        let own = self.cursors.iter().filter(|(tenant, _)| self.owns(**tenant));
        let lag: u64 = own.map(|(_, cursor)| cursor.lag()).sum();
        metrics::gauge!("annals_consumer_lag_events", "consumer" => self.consumer.name().to_owned())
            .set(lag as f64);
    }
}

fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF_BOUNDS;
    first.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(10))).min(longest)
}
