//! The relay publishes every tenant's log to JetStream, in position order per tenant.
//! It stores in PostgreSQL the end of the contiguous acknowledged prefix of each log.
//!
//! Each tenant has at most one page in flight; pages of many tenants are in flight at once.
//! Events that were not acknowledged are published again under the same message id.
//! JetStream recognises the id within its duplicate window.
//! Two relays on one tenant publish the same ids and move the progress by compare-and-swap.
//! This is correct, but wasteful. Outages are retried.
//!
//! JetStream may lose any message. `stream_check` detects a loss; `republish` finds and publishes what is missing, one
//! tenant at a time.
//! The database may be restored to an earlier state; `divergence_check` detects that.

mod backoff;
mod divergence_check;
pub(crate) mod page;
pub(crate) mod position_ranges;
pub mod progress;
mod refresh;
mod republish;
pub(crate) mod stored_message;
pub(crate) mod stream_check;
mod stream_checks;
pub(crate) mod stream_reader;
mod tenant_relay;
mod violations;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use schemas::engine::TenantId;
use store::{Causes, DatabaseInstance, Store, StoreError, TenantAssignment, Workload};
use tokio::sync::{Semaphore, broadcast};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::backoff::backoff;
use self::page::{PAGE_SIZE_MAX, PageResult, PublishError, RelayPage};
use self::progress::{RelayMove, RelayProgress};
use self::refresh::Refreshing;
use self::republish::RepublishError;
use self::stream_check::{LastAckedMessage, StreamCheckResult};
use self::tenant_relay::TenantRelay;
use crate::message::MessageKey;
use crate::{Nats, NatsError};

pub use self::divergence_check::check_divergence;
pub use self::stream_reader::read_category;

/// Maximum events of all tenants that are published and not yet acknowledged.
const IN_FLIGHT_EVENTS_MAX: usize = 1_000;
/// Maximum pages in flight.
const CONCURRENT_PAGES_MAX: usize = 32;
/// Maximum pages read at once. The relay's pool is small, and its other statements use it too.
const CONCURRENT_READS_MAX: usize = 2;
/// Maximum tenants in one statement that moves the progress.
const MOVES_BATCH_SIZE_MAX: usize = 200;
/// How often progress and heads are read, in case a notification was lost.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// How often the stream is checked without a cause. A loss is noticed within this time.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum tenants that are compared and republished at once.
const CONCURRENT_REPUBLISHES_MAX: usize = 2;
/// How long a stopping relay waits for its pages and moves in flight.
const SHUTDOWN_DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Publishes until `cancel` is cancelled.
///
/// # Errors
/// None at present. Outages and misconfigurations are logged and retried, because a fix needs no restart.
pub async fn run(store: Store, nats: Nats, cancel: CancellationToken) -> Result<(), NatsError> {
    let mut notifications = store.head_moves();
    let mut connections = nats.connections();
    let mut changes = store.tenant_assignment(Workload::Relay).changes();
    let mut relay = Relay::new(store, nats);
    let mut poll = tokio::time::interval(POLL_INTERVAL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut check = tokio::time::interval(CHECK_INTERVAL);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        relay.start_due_work();
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(done) = relay.work.next() => relay.done(done),
            notification = next_notification(&mut notifications) => relay.notify(notification),
            Ok(()) = connections.changed() => relay.suspect(),
            _ = check.tick() => relay.suspect(),
            _ = poll.tick() => relay.refresh(),
            () = changes.next() => {
                relay.refresh_all();
                relay.suspect();
            }
        }
    }
    relay.stop().await;
    Ok(())
}

/// The tenant whose head has moved, or `None` if notifications were lost.
async fn next_notification(notifications: &mut broadcast::Receiver<TenantId>) -> Option<TenantId> {
    match notifications.recv().await {
        Ok(tenant) => Some(tenant),
        Err(broadcast::error::RecvError::Lagged(_)) => None,
        // The store is shutting down. The relay keeps polling until it is cancelled.
        Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
    }
}

enum TaskOutcome {
    PagePublished { tenant: TenantId, page: RelayPage, published: PageResult },
    BackoffElapsed(TenantId),
    Progress { all: bool, result: Result<Vec<RelayProgress>, StoreError> },
    Moved { moves: Vec<RelayMove>, result: Result<Vec<TenantId>, StoreError> },
    Checked(Result<StreamCheckResult, NatsError>),
    CheckAgain,
    Republished { tenant: TenantId, result: Result<u64, RepublishError> },
    EpochBumped { tenant: TenantId, result: Result<(), StoreError> },
}

struct Relay {
    store: Store,
    assignment: TenantAssignment,
    nats: Nats,
    key: MessageKey,
    tenants: HashMap<TenantId, TenantRelay>,
    ready: VecDeque<TenantId>,
    dirty: Vec<TenantId>,
    pages: usize,
    in_flight: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    work: FuturesUnordered<BoxFuture<'static, TaskOutcome>>,
    refreshing: Refreshing,
    moving: bool,
    stream: StreamCheck,
    /// Messages that had left the stream at the last check.
    removed: u64,
    /// The database instance that was compared with the stream.
    checked_instance: Option<DatabaseInstance>,
    /// The acknowledged message of this process with the highest stream position.
    farthest: Option<LastAckedMessage>,
    suspected: VecDeque<TenantId>,
    republishing: HashSet<TenantId>,
    check_failures: u32,
    move_failures: u32,
    /// Acknowledged positions that were beyond the head. They are not used, even if the head has passed them since.
    refused: HashMap<TenantId, u64>,
}

/// State of the stream check.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamCheck {
    /// A check is needed. Nothing is published before it ends.
    Due,
    Running,
    /// A check is running, and another reason for a check came up meanwhile.
    RunningSuspected,
    Good,
}

impl Relay {
    fn new(store: Store, nats: Nats) -> Self {
        Self {
            assignment: store.tenant_assignment(Workload::Relay),
            key: MessageKey::of(store.key()),
            store,
            nats,
            tenants: HashMap::new(),
            ready: VecDeque::new(),
            dirty: Vec::new(),
            pages: 0,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_EVENTS_MAX)),
            reads: Arc::new(Semaphore::new(CONCURRENT_READS_MAX)),
            work: FuturesUnordered::new(),
            refreshing: Refreshing::default(),
            moving: false,
            stream: StreamCheck::Due,
            removed: 0,
            checked_instance: None,
            farthest: None,
            suspected: VecDeque::new(),
            republishing: HashSet::new(),
            check_failures: 0,
            move_failures: 0,
            refused: HashMap::new(),
        }
    }

    fn start_due_work(&mut self) {
        if self.stream == StreamCheck::Due {
            self.check_stream();
        }
        if self.stream == StreamCheck::Good {
            while self.pages < CONCURRENT_PAGES_MAX
                && let Some(tenant) = self.ready.pop_front()
            {
                self.start_page(tenant);
            }
            self.start_republishing();
        }
        if !self.moving && !self.dirty.is_empty() {
            self.move_progress();
        }
    }

    fn start_page(&mut self, tenant: TenantId) {
        let Some(tenant_relay) = self.tenants.get_mut(&tenant) else { return };
        if !self.assignment.owns(tenant) {
            tenant_relay.skip();
            return;
        }
        let Some(page) = tenant_relay.begin(PAGE_SIZE_MAX, self.removed) else { return };
        self.pages += 1;
        let (store, nats, key) = (self.store.clone(), self.nats.clone(), self.key.clone());
        let (in_flight, reads) = (Arc::clone(&self.in_flight), Arc::clone(&self.reads));
        let wanted = page.clone();
        // Each page runs in its own task, so that pages use all cores and a panic fails only one page.
        let publishing = AbortOnDropHandle::new(tokio::spawn(async move {
            page::publish(&store, &nats, &key, &in_flight, &reads, tenant, &wanted).await
        }));
        let ended = publishing.map(move |ended| {
            let published = ended.unwrap_or_else(|error| PageResult::aborted(&page, &error));
            TaskOutcome::PagePublished { tenant, page, published }
        });
        self.work.push(ended.boxed());
    }

    /// Starts due republishes up to the limit. A tenant with a page in flight finishes that page first.
    fn start_republishing(&mut self) {
        let mut waiting = VecDeque::new();
        while self.republishing.len() + waiting.len() < CONCURRENT_REPUBLISHES_MAX
            && let Some(tenant) = self.suspected.pop_front()
        {
            let Some(tenant_relay) = self.tenants.get_mut(&tenant) else { continue };
            // The next check suspects a stopped tenant again.
            if tenant_relay.is_stopped() {
                continue;
            }
            if !tenant_relay.pause() {
                waiting.push_back(tenant);
                continue;
            }
            self.republishing.insert(tenant);
            let (store, nats, key) = (self.store.clone(), self.nats.clone(), self.key.clone());
            let in_flight = Arc::clone(&self.in_flight);
            let republishing = AbortOnDropHandle::new(tokio::spawn(async move {
                republish::republish(&store, &nats, &key, &in_flight, tenant).await
            }));
            let ended = republishing.map(move |ended| {
                let result = ended.unwrap_or_else(|error| Err(error.into()));
                TaskOutcome::Republished { tenant, result }
            });
            self.work.push(ended.boxed());
        }
        waiting.append(&mut self.suspected);
        self.suspected = waiting;
    }

    fn republish_finished(&mut self, tenant: TenantId, result: Result<u64, RepublishError>) {
        self.republishing.remove(&tenant);
        let is_violated = result.as_ref().is_err_and(RepublishError::is_violation);
        match result {
            Ok(0) => tracing::debug!(%tenant, "nothing is missing on the stream"),
            Ok(events) => tracing::info!(%tenant, events, "the stream was refilled"),
            Err(RepublishError::Superseded) => {}
            Err(_) if is_violated => {}
            Err(error) => {
                tracing::warn!(%tenant, error = %Causes(&error), "a refill was interrupted; it is taken up again");
            }
        }
        if let Some(tenant_relay) = self.tenants.get_mut(&tenant) {
            tenant_relay.republish_finished();
        }
        if is_violated {
            self.stop_tenant(tenant);
        }
        self.refresh();
    }

    /// Raises the stream epoch of a tenant, because JetStream drops its messages as duplicates of messages that it no
    /// longer holds.
    fn bump_epoch(&mut self, tenant: TenantId) {
        let Some(tenant_relay) = self.tenants.get(&tenant) else { return };
        let (store, log, stream_epoch) =
            (self.store.clone(), tenant_relay.log_id(), tenant_relay.stream_epoch());
        self.work.push(
            async move {
                TaskOutcome::EpochBumped {
                    tenant,
                    result: progress::bump_stream_epoch(&store, tenant, log, stream_epoch).await,
                }
            }
            .boxed(),
        );
    }

    fn notify(&mut self, tenant: Option<TenantId>) {
        match tenant
            .and_then(|tenant| self.tenants.get_mut(&tenant).map(|tenant_relay| (tenant, tenant_relay)))
        {
            Some((tenant, tenant_relay)) => {
                tenant_relay.notify();
                self.queue(tenant);
            }
            // Notifications were lost, or the tenant is new.
            None => self.refresh(),
        }
    }

    fn queue(&mut self, tenant: TenantId) {
        if self.assignment.owns(tenant) && self.tenants.get_mut(&tenant).is_some_and(TenantRelay::enqueue) {
            self.ready.push_back(tenant);
        }
    }

    fn move_progress(&mut self) {
        let count = self.dirty.len().min(MOVES_BATCH_SIZE_MAX);
        let moves: Vec<RelayMove> = self
            .dirty
            .drain(..count)
            .filter_map(|tenant| {
                self.tenants.get_mut(&tenant).and_then(|tenant_relay| tenant_relay.next_move(tenant))
            })
            .collect();
        if moves.is_empty() {
            return;
        }
        self.moving = true;
        let (store, wait) = (self.store.clone(), backoff(self.move_failures));
        self.work.push(
            async move {
                tokio::time::sleep(wait).await;
                let result = progress::advance(&store, &moves).await;
                TaskOutcome::Moved { moves, result }
            }
            .boxed(),
        );
    }

    fn done(&mut self, done: TaskOutcome) {
        match done {
            TaskOutcome::PagePublished { tenant, page, published } => {
                self.page_finished(tenant, &page, published);
            }
            TaskOutcome::BackoffElapsed(tenant) => {
                if let Some(tenant_relay) = self.tenants.get_mut(&tenant) {
                    tenant_relay.resume();
                }
                self.queue(tenant);
            }
            TaskOutcome::Progress { all, result } => self.progress_loaded(all, result),
            TaskOutcome::Moved { moves, result } => self.moved(&moves, result),
            TaskOutcome::Checked(result) => self.stream_checked(result),
            TaskOutcome::CheckAgain => self.stream = StreamCheck::Due,
            TaskOutcome::Republished { tenant, result } => self.republish_finished(tenant, result),
            TaskOutcome::EpochBumped { tenant, result } => {
                if let Err(error) = result {
                    tracing::warn!(%tenant, error = %Causes(&error), "a generation cannot be raised");
                }
                if let Some(tenant_relay) = self.tenants.get_mut(&tenant) {
                    tenant_relay.invalidate();
                }
                self.refresh();
            }
        }
    }

    fn page_finished(&mut self, tenant: TenantId, page: &RelayPage, published: PageResult) {
        self.pages -= 1;
        let Some(tenant_relay) = self.tenants.get_mut(&tenant) else { return };
        metrics::counter!("annals_relay_published_total")
            .increment(published.acked_to.saturating_sub(page.after));
        if published.acked_message.sequence
            > self.farthest.map_or(0, |last_acked| last_acked.acked_message.sequence)
        {
            self.farthest =
                Some(LastAckedMessage { log: page.log_id, acked_message: published.acked_message });
        }
        if tenant_relay.acked(page, &published) {
            self.dirty.push(tenant);
        }
        match published.failure {
            None => {
                tenant_relay.end(published.full);
                self.queue(tenant);
            }
            Some(error) if error.is_violation() => self.stop_tenant(tenant),
            Some(error) => {
                let wait = backoff(tenant_relay.fail());
                tracing::warn!(%tenant, error = %Causes(&error), retry_in_ms = wait.as_millis(), "publishing was interrupted");
                self.work.push(
                    tokio::time::sleep(wait).map(move |()| TaskOutcome::BackoffElapsed(tenant)).boxed(),
                );
                if !error.is_store() {
                    self.suspect();
                }
                if matches!(error, PublishError::Suppressed(_)) {
                    self.bump_epoch(tenant);
                }
            }
        }
    }

    fn moved(&mut self, moves: &[RelayMove], result: Result<Vec<TenantId>, StoreError>) {
        self.moving = false;
        match result {
            Ok(moved) => {
                self.move_failures = 0;
                let moved: HashSet<TenantId> = moved.into_iter().collect();
                let mut lost = false;
                for wanted in moves {
                    let Some(tenant_relay) = self.tenants.get_mut(&wanted.tenant) else { continue };
                    if moved.contains(&wanted.tenant) {
                        if tenant_relay.stored(wanted) {
                            self.dirty.push(wanted.tenant);
                        }
                    } else {
                        tenant_relay.invalidate();
                        lost = true;
                    }
                }
                if lost {
                    tracing::debug!("another relay moved the progress");
                    self.refresh();
                }
            }
            Err(error) => {
                self.move_failures += 1;
                tracing::warn!(error = %Causes(&error), "the relay cannot store its progress");
                for wanted in moves {
                    if let Some(tenant_relay) = self.tenants.get_mut(&wanted.tenant)
                        && tenant_relay.move_failed()
                    {
                        self.dirty.push(wanted.tenant);
                    }
                }
            }
        }
    }

    /// Waits up to `SHUTDOWN_DRAIN_TIMEOUT` for work in flight, and stores the progress.
    async fn stop(mut self) {
        let drain = async {
            while self.pages > 0 || self.moving {
                let Some(done) = self.work.next().await else { break };
                self.done(done);
            }
            if !self.dirty.is_empty() {
                self.move_progress();
                while self.moving
                    && let Some(done) = self.work.next().await
                {
                    self.done(done);
                }
            }
        };
        // The next relay publishes again what is not stored in time, under the same ids.
        drop(tokio::time::timeout(SHUTDOWN_DRAIN_TIMEOUT, drain).await);
    }
}
