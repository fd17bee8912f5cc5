//! Feeds a consumer of the log (a projection, a saga): contiguous batches of each tenant's events, right after the
//! consumer's checkpoint, one batch of a tenant at a time.
//!
//! What is followed (JetStream) is a hint that carries the events along. It may lose, repeat or disorder everything:
//! what lies at or below the checkpoint is dropped, what is missing is read from the log, and heads are compared
//! periodically, so that a lost last message is noticed. The checkpoint itself is the consumer's to move, by
//! compare-and-swap in the transaction that holds the batch's effect.

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

use crate::{Causes, Head, LogFilter, Share, SharedWork, Store, StoreError};

mod lane;

use lane::Lane;

use crate::sharing::ShareChanges;

/// Events of one tenant with contiguous positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Whose they are.
    pub tenant: TenantId,
    /// The log that the positions belong to.
    pub log_id: LogId,
    /// In position order. A consumer gets them with their personal data open.
    pub events: Vec<RecordedEvent>,
}

/// Somebody who handles a tenant's events in order and remembers how far it came.
pub trait Consumer: Send + Sync + 'static {
    /// The name of its checkpoint.
    fn name(&self) -> &str;

    /// Handles the events right after position `from` and moves the checkpoint from there in the same transaction.
    fn handle(&self, from: u64, batch: Batch) -> impl Future<Output = Result<Handled, StoreError>> + Send;

    /// Whether personal data is opened for it. One that reads ids alone goes on where a key is missing.
    fn reads_personal_data(&self) -> bool {
        true
    }

    /// Whether an operator holds the tenant up: nothing is read for it until that is over. Asked before every turn.
    fn is_paused(&self, _tenant: TenantId) -> impl Future<Output = Result<bool, StoreError>> + Send {
        std::future::ready(Ok(false))
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// The checkpoint stands at this position now.
    Moved(u64),
    /// Somebody else had moved the checkpoint: nothing was done.
    Lost,
    /// An event of the tenant stops this consumer, until somebody acts; asked again now and then.
    Stopped,
}

/// How a consumer is fed.
#[derive(Debug, Clone, Copy)]
pub struct FeedSettings {
    /// Events of a batch, at most.
    pub batch: usize,
    /// Tenants handled at once.
    pub tenants_at_once: usize,
    /// How often heads are compared with checkpoints.
    pub compare_every: Duration,
    /// The sort of work that this is part of, where it is shared with other processes.
    pub work: Option<SharedWork>,
}

impl Default for FeedSettings {
    fn default() -> Self {
        Self { batch: 500, tenants_at_once: 6, compare_every: Duration::from_secs(1), work: None }
    }
}

/// Events held back for tenants whose turn has not come; what is beyond is read from the log again.
const BUFFERED_IN_ALL: usize = 20_000;
/// The wait after another process has moved the checkpoint.
const CONTENDED: Duration = Duration::from_millis(50);
/// The wait of a paused tenant until it is asked about again.
const PAUSED: Duration = Duration::from_millis(500);
/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Feeds the consumer until cancelled. Outages are waited out.
pub async fn run<C: Consumer>(
    store: Store,
    consumer: Arc<C>,
    followed: impl Stream<Item = Batch> + Send,
    settings: FeedSettings,
    cancel: CancellationToken,
) {
    let share = settings.work.map(|work| store.share(work));
    let mut changes = share.as_ref().map(Share::changes);
    let mut feed = Feed {
        store,
        share,
        consumer,
        settings,
        lanes: HashMap::new(),
        ready: VecDeque::new(),
        queued: HashSet::new(),
        busy: 0,
        buffered: 0,
        work: FuturesUnordered::new(),
        comparing: false,
    };
    let mut followed = std::pin::pin!(followed.fuse());
    let mut compare = tokio::time::interval(settings.compare_every);
    compare.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        feed.start_ready();
        tokio::select! {
            () = cancel.cancelled() => break,
            _ = compare.tick() => feed.compare(),
            () = changed(&mut changes) => feed.compare(),
            Some(done) = feed.work.next() => feed.done(done),
            Some(batch) = followed.next() => feed.offer(batch),
        }
    }
    // What is under way is left: a batch is one transaction, so that is safe at any point.
}

/// The share of this process has changed.
async fn changed(changes: &mut Option<ShareChanges>) {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

enum Done {
    Handled { tenant: TenantId, result: Result<Progress, StoreError> },
    Waited(TenantId),
    Compared(Result<(Vec<Head>, HashMap<TenantId, u64>), StoreError>),
}

/// What one turn of a tenant came to.
enum Progress {
    /// The checkpoint stands here.
    At(LogId, u64),
    /// Somebody else is at this tenant.
    Lost,
    Stopped,
    Paused,
}

struct Feed<C> {
    store: Store,
    share: Option<Share>,
    consumer: Arc<C>,
    settings: FeedSettings,
    lanes: HashMap<TenantId, Lane>,
    ready: VecDeque<TenantId>,
    queued: HashSet<TenantId>,
    busy: usize,
    buffered: usize,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    comparing: bool,
}

impl<C: Consumer> Feed<C> {
    /// Whether this process works for the tenant.
    fn owns(&self, tenant: TenantId) -> bool {
        self.share.as_ref().is_none_or(|share| share.owns(tenant))
    }

    fn offer(&mut self, batch: Batch) {
        if !self.owns(batch.tenant) {
            return;
        }
        let lane = self.lanes.entry(batch.tenant).or_default();
        let before = lane.buffered();
        lane.offer(batch.log_id, batch.events, BUFFERED_IN_ALL.saturating_sub(self.buffered));
        self.buffered = self.buffered + lane.buffered() - before;
        self.queue(batch.tenant);
    }

    /// Queues a tenant that has something to do and is neither at work nor waiting.
    fn queue(&mut self, tenant: TenantId) {
        if self.lanes.get(&tenant).is_some_and(Lane::is_due)
            && self.owns(tenant)
            && self.queued.insert(tenant)
        {
            self.ready.push_back(tenant);
        }
    }

    fn start_ready(&mut self) {
        while self.busy < self.settings.tenants_at_once
            && let Some(tenant) = self.ready.pop_front()
        {
            self.queued.remove(&tenant);
            if !self.owns(tenant) {
                continue;
            }
            let Some(lane) = self.lanes.get_mut(&tenant) else { continue };
            let before = lane.buffered();
            let turn = lane.begin(self.settings.batch);
            self.buffered = self.buffered + lane.buffered() - before;
            self.busy += 1;
            let (store, consumer, limit) =
                (self.store.clone(), Arc::clone(&self.consumer), self.settings.batch);
            // A task of its own: tenants use all cores, and a panic is a failure of that tenant's turn alone.
            let turn = AbortOnDropHandle::new(tokio::spawn(async move {
                take_turn(&store, consumer.as_ref(), tenant, turn, limit).await
            }));
            let ended = turn.map(move |ended| {
                let panicked = |error| Err(StoreError::Corrupt(format!("a batch was given up: {error}")));
                Done::Handled { tenant, result: ended.unwrap_or_else(panicked) }
            });
            self.work.push(ended.boxed());
        }
    }

    fn compare(&mut self) {
        if std::mem::replace(&mut self.comparing, true) {
            return;
        }
        let (store, consumer) = (self.store.clone(), Arc::clone(&self.consumer));
        self.work.push(
            async move {
                let read = async {
                    let checkpoints = store.checkpoints(Some(consumer.name())).await?;
                    let heads = store.heads().await?;
                    Ok((
                        heads,
                        checkpoints.into_iter().map(|(tenant, _, at)| (tenant, at.position)).collect(),
                    ))
                };
                Done::Compared(read.await)
            }
            .boxed(),
        );
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Handled { tenant, result } => {
                self.busy -= 1;
                let Some(lane) = self.lanes.get_mut(&tenant) else { return };
                let before = lane.buffered();
                let wait = match result {
                    Ok(Progress::At(log_id, checkpoint)) => {
                        lane.end(log_id, checkpoint);
                        None
                    }
                    // Another process is quicker: it shall go on undisturbed, as long as it does.
                    Ok(Progress::Lost) => {
                        lane.lose();
                        Some(CONTENDED)
                    }
                    Ok(Progress::Stopped) => Some(backoff(lane.fail())),
                    Ok(Progress::Paused) => {
                        lane.pause();
                        Some(PAUSED)
                    }
                    Err(error) => {
                        tracing::warn!(consumer = self.consumer.name(), %tenant, error = %Causes(&error), "a batch failed; it is tried again");
                        Some(backoff(lane.fail()))
                    }
                };
                self.buffered = self.buffered + lane.buffered() - before;
                if let Some(wait) = wait {
                    self.work.push(tokio::time::sleep(wait).map(move |()| Done::Waited(tenant)).boxed());
                } else {
                    self.queue(tenant);
                }
            }
            Done::Waited(tenant) => {
                if let Some(lane) = self.lanes.get_mut(&tenant) {
                    lane.resume();
                }
                self.queue(tenant);
            }
            Done::Compared(result) => {
                self.comparing = false;
                match result {
                    Ok((heads, checkpoints)) => self.compared(&heads, &checkpoints),
                    Err(error) => {
                        tracing::warn!(consumer = self.consumer.name(), error = %Causes(&error), "heads cannot be compared");
                    }
                }
            }
        }
    }

    fn compared(&mut self, heads: &[Head], checkpoints: &HashMap<TenantId, u64>) {
        let mut lag = 0;
        for head in heads {
            let checkpoint = checkpoints.get(&head.tenant).copied().unwrap_or(0);
            let lane = self.lanes.entry(head.tenant).or_default();
            let before = lane.buffered();
            if lane.seen(head.log_id, head.position, checkpoint) {
                tracing::warn!(consumer = self.consumer.name(), tenant = %head.tenant, log = %head.log_id,
                    head = head.position, "the log ends before what was followed; following starts from the checkpoint");
            }
            self.buffered = self.buffered + lane.buffered() - before;
            lag += head.position.saturating_sub(checkpoint);
            self.queue(head.tenant);
        }
        metrics::gauge!("annals_consumer_lag_events", "consumer" => self.consumer.name().to_owned())
            .set(lag as f64);
    }
}

fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    first.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(10))).min(longest)
}

/// One turn of a tenant: find the checkpoint where it is not known, take the followed events that fit or read the log,
/// and hand them over.
async fn take_turn<C: Consumer>(
    store: &Store,
    consumer: &C,
    tenant: TenantId,
    turn: lane::Turn,
    limit: usize,
) -> Result<Progress, StoreError> {
    if consumer.is_paused(tenant).await? {
        return Ok(Progress::Paused);
    }
    let handle = store.tenant(tenant);
    let from = if let Some(position) = turn.checkpoint {
        position
    } else {
        let transaction = handle.begin_projection().await?;
        let checkpoint = transaction.checkpoint(consumer.name()).await?;
        transaction.commit().await?;
        checkpoint.map_or(0, |checkpoint| checkpoint.position)
    };
    let batch = if let Some((log_id, events)) = turn.fitting(from) {
        Batch { tenant, log_id, events }
    } else {
        let page = handle.read_log_page(from, None, limit, &LogFilter::default()).await?;
        Batch { tenant, log_id: page.log_id, events: page.events }
    };
    if batch.events.is_empty() {
        return Ok(Progress::At(batch.log_id, from));
    }
    let log_id = batch.log_id;
    let batch = if consumer.reads_personal_data() {
        Batch { events: handle.open(batch.events).await?, ..batch }
    } else {
        batch
    };
    match consumer.handle(from, batch).await? {
        Handled::Moved(position) => {
            store.announce_checkpoint(consumer.name(), tenant, position);
            Ok(Progress::At(log_id, position))
        }
        Handled::Lost => Ok(Progress::Lost),
        Handled::Stopped => Ok(Progress::Stopped),
    }
}
