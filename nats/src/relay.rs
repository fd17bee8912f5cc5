//! The relay: publishes every tenant's log to JetStream, in position order per tenant, and remembers in PostgreSQL how
//! far the contiguous acknowledged prefix reaches.
//!
//! One page of a tenant is under way at a time, pages of many tenants at once. What was not acknowledged is published
//! again under the same message id, which JetStream recognises within its duplicate window. Two relays at once publish
//! the same ids and move the progress by compare-and-swap, so they are wasteful and harmless. Outages are waited out.
//!
//! JetStream may lose anything. `check` finds out that something is gone, `refill` what, tenant by tenant. The database may
//! go back to an earlier state: `evidence` finds that out.

pub(crate) mod check;
pub(crate) mod copy;
mod evidence;
mod lane;
mod page;
pub(crate) mod ranges;
mod refill;
pub(crate) mod stored;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use schemas::engine::TenantId;
use store::{Causes, Incarnation, RelayMove, RelayProgress, Share, SharedWork, Store, StoreError};
use tokio::sync::{Semaphore, broadcast};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::check::{Verdict, Witness};
use self::lane::Lane;
use self::page::{Page, PublishFailure, Published};
use self::refill::RefillFailure;
use crate::message::MessageKey;
use crate::{Nats, NatsError};

pub use self::evidence::examine;

/// Events published and not yet acknowledged, in all.
const IN_FLIGHT: usize = 1_000;
/// Events of one page of one tenant: its fair share while others wait. One page at a time is under way, so a position that is
/// on the stream has all before it there but the last of these, whatever was interrupted.
pub(crate) const PAGE: usize = 250;
/// Pages under way at once.
const PAGES: usize = 32;
/// Pages being read at once; the relay's pool is small and shared with its other statements.
const READS: usize = 2;
/// Tenants in one move of the progress.
const MOVES: usize = 200;
/// How often progress and heads are read in case a hint was lost.
const POLL: Duration = Duration::from_millis(500);
/// How often the stream is looked at without cause: a loss is noticed within this time.
const CHECK: Duration = Duration::from_secs(1);
/// Tenants compared and refilled at once.
const REFILLS: usize = 2;
/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How long a relay that stops waits for what it has in flight.
const FAREWELL: Duration = Duration::from_secs(2);

/// Publishes until cancelled. Never ends for an outage; an error is a set-up that nobody but an operator can mend, and
/// even that is waited out, because mending it needs no restart.
pub async fn run(store: Store, nats: Nats, cancel: CancellationToken) -> Result<(), NatsError> {
    let mut hints = store.head_moves();
    let mut connections = nats.connections();
    let mut changes = store.share(SharedWork::Relay).changes();
    let mut relay = Relay::new(store, nats);
    let mut poll = tokio::time::interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut check = tokio::time::interval(CHECK);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        relay.start_what_is_due();
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(done) = relay.work.next() => relay.done(done),
            hint = next_hint(&mut hints) => relay.hint(hint),
            Ok(()) = connections.changed() => relay.doubt(),
            _ = check.tick() => relay.doubt(),
            _ = poll.tick() => relay.refresh(),
            () = changes.next() => {
                relay.refresh();
                relay.doubt();
            }
        }
    }
    relay.stop().await;
    Ok(())
}

/// The tenant whose head has moved, or `None` where hints were lost.
async fn next_hint(hints: &mut broadcast::Receiver<TenantId>) -> Option<TenantId> {
    match hints.recv().await {
        Ok(tenant) => Some(tenant),
        Err(broadcast::error::RecvError::Lagged(_)) => None,
        // The store is shutting down; the poll goes on until the relay is told to stop.
        Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
    }
}

enum Done {
    Page { tenant: TenantId, page: Page, published: Published },
    Waited(TenantId),
    Progress(Result<Vec<RelayProgress>, StoreError>),
    Moved { moves: Vec<RelayMove>, result: Result<Vec<TenantId>, StoreError> },
    Checked(Result<Verdict, NatsError>),
    CheckAgain,
    Refilled { tenant: TenantId, result: Result<u64, RefillFailure> },
    Raised { tenant: TenantId, result: Result<(), StoreError> },
}

struct Relay {
    store: Store,
    share: Share,
    nats: Nats,
    key: MessageKey,
    lanes: HashMap<TenantId, Lane>,
    ready: VecDeque<TenantId>,
    dirty: Vec<TenantId>,
    pages: usize,
    in_flight: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    refreshing: bool,
    refresh_again: bool,
    moving: bool,
    stream: StreamCheck,
    /// Messages that had left the stream when it was looked at last.
    removed: u64,
    /// The life of the database that was compared with the stream.
    examined: Option<Incarnation>,
    /// The farthest message that was acknowledged here.
    farthest: Option<Witness>,
    doubtful: VecDeque<TenantId>,
    refilling: HashSet<TenantId>,
    check_failures: u32,
    move_failures: u32,
}

/// What is known of the stream on the other side.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamCheck {
    /// Something happened: nothing is published before it was looked at.
    Due,
    Running,
    /// As above, and doubted again meanwhile.
    RunningDoubted,
    Good,
}

impl Relay {
    fn new(store: Store, nats: Nats) -> Self {
        Self {
            share: store.share(SharedWork::Relay),
            key: MessageKey::of(store.key()),
            store,
            nats,
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            dirty: Vec::new(),
            pages: 0,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
            reads: Arc::new(Semaphore::new(READS)),
            work: FuturesUnordered::new(),
            refreshing: false,
            refresh_again: false,
            moving: false,
            stream: StreamCheck::Due,
            removed: 0,
            examined: None,
            farthest: None,
            doubtful: VecDeque::new(),
            refilling: HashSet::new(),
            check_failures: 0,
            move_failures: 0,
        }
    }

    fn start_what_is_due(&mut self) {
        if self.stream == StreamCheck::Due {
            self.check_stream();
        }
        if self.stream == StreamCheck::Good {
            while self.pages < PAGES
                && let Some(tenant) = self.ready.pop_front()
            {
                self.start_page(tenant);
            }
            self.start_refills();
        }
        if !self.moving && !self.dirty.is_empty() {
            self.move_progress();
        }
    }

    fn start_page(&mut self, tenant: TenantId) {
        let Some(lane) = self.lanes.get_mut(&tenant) else { return };
        if !self.share.owns(tenant) {
            lane.pass();
            return;
        }
        let Some(page) = lane.begin(PAGE, self.removed) else { return };
        self.pages += 1;
        let (store, nats, key) = (self.store.clone(), self.nats.clone(), self.key.clone());
        let (in_flight, reads) = (Arc::clone(&self.in_flight), Arc::clone(&self.reads));
        let wanted = page.clone();
        // A task of its own: pages use all cores, and a panic fails one page alone.
        let publishing = AbortOnDropHandle::new(tokio::spawn(async move {
            page::publish(&store, &nats, &key, &in_flight, &reads, tenant, &wanted).await
        }));
        let ended = publishing.map(move |ended| {
            let published = ended.unwrap_or_else(|error| Published::given_up(&page, &error));
            Done::Page { tenant, page, published }
        });
        self.work.push(ended.boxed());
    }

    /// Starts what fits of the refills that are due. A tenant with a page under way finishes that first.
    fn start_refills(&mut self) {
        let mut waiting = VecDeque::new();
        while self.refilling.len() + waiting.len() < REFILLS
            && let Some(tenant) = self.doubtful.pop_front()
        {
            let Some(lane) = self.lanes.get_mut(&tenant) else { continue };
            if !lane.hold() {
                waiting.push_back(tenant);
                continue;
            }
            self.refilling.insert(tenant);
            let (store, nats, key) = (self.store.clone(), self.nats.clone(), self.key.clone());
            let in_flight = Arc::clone(&self.in_flight);
            let refilling = AbortOnDropHandle::new(tokio::spawn(async move {
                refill::refill(&store, &nats, &key, &in_flight, tenant).await
            }));
            let ended = refilling.map(move |ended| {
                let result = ended.unwrap_or_else(|error| Err(error.into()));
                Done::Refilled { tenant, result }
            });
            self.work.push(ended.boxed());
        }
        waiting.append(&mut self.doubtful);
        self.doubtful = waiting;
    }

    fn refilled(&mut self, tenant: TenantId, result: Result<u64, RefillFailure>) {
        self.refilling.remove(&tenant);
        match result {
            Ok(0) => tracing::debug!(%tenant, "nothing is missing on the stream"),
            Ok(events) => tracing::info!(%tenant, events, "the stream was refilled"),
            Err(RefillFailure::Overtaken) => {}
            Err(error) => {
                tracing::warn!(%tenant, error = %Causes(&error), "a refill was interrupted; it is taken up again");
            }
        }
        if let Some(lane) = self.lanes.get_mut(&tenant) {
            lane.refilled();
        }
        self.refresh();
    }

    /// Raises the generation of a tenant whose message ids JetStream takes for repeats of what it no longer holds.
    fn raise(&mut self, tenant: TenantId) {
        let Some(lane) = self.lanes.get(&tenant) else { return };
        let (store, log, generation) = (self.store.clone(), lane.log_id(), lane.generation());
        self.work.push(
            async move {
                Done::Raised { tenant, result: store.raise_relay_generation(tenant, log, generation).await }
            }
            .boxed(),
        );
    }

    fn hint(&mut self, tenant: Option<TenantId>) {
        match tenant.and_then(|tenant| self.lanes.get_mut(&tenant).map(|lane| (tenant, lane))) {
            Some((tenant, lane)) => {
                lane.hint();
                self.queue(tenant);
            }
            // Hints were lost, or the tenant is new.
            None => self.refresh(),
        }
    }

    fn queue(&mut self, tenant: TenantId) {
        if self.share.owns(tenant) && self.lanes.get_mut(&tenant).is_some_and(Lane::enqueue) {
            self.ready.push_back(tenant);
        }
    }

    fn refresh(&mut self) {
        if std::mem::replace(&mut self.refreshing, true) {
            self.refresh_again = true;
            return;
        }
        let store = self.store.clone();
        self.work.push(async move { Done::Progress(store.relay_progress().await) }.boxed());
    }

    fn doubt(&mut self) {
        self.stream = match self.stream {
            StreamCheck::Running | StreamCheck::RunningDoubted => StreamCheck::RunningDoubted,
            StreamCheck::Due | StreamCheck::Good => StreamCheck::Due,
        };
    }

    fn check_stream(&mut self) {
        self.stream = StreamCheck::Running;
        let (store, nats, farthest) = (self.store.clone(), self.nats.clone(), self.farthest);
        let (key, examined) = (self.key.clone(), self.examined.clone());
        let acked =
            self.lanes.iter().map(|(tenant, lane)| (*tenant, lane.log_id(), lane.acked_to())).collect();
        let check =
            async move { Done::Checked(check::check(&store, &nats, &key, farthest, examined, acked).await) };
        self.work.push(check.boxed());
    }

    fn move_progress(&mut self) {
        let count = self.dirty.len().min(MOVES);
        let moves: Vec<RelayMove> = self
            .dirty
            .drain(..count)
            .filter_map(|tenant| self.lanes.get_mut(&tenant).and_then(|lane| lane.next_move(tenant)))
            .collect();
        if moves.is_empty() {
            return;
        }
        self.moving = true;
        let (store, wait) = (self.store.clone(), backoff(self.move_failures));
        self.work.push(
            async move {
                tokio::time::sleep(wait).await;
                let result = store.move_relay(&moves).await;
                Done::Moved { moves, result }
            }
            .boxed(),
        );
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Page { tenant, page, published } => self.page_done(tenant, &page, published),
            Done::Waited(tenant) => {
                if let Some(lane) = self.lanes.get_mut(&tenant) {
                    lane.resume();
                }
                self.queue(tenant);
            }
            Done::Progress(result) => self.progress_read(result),
            Done::Moved { moves, result } => self.moved(&moves, result),
            Done::Checked(result) => self.checked(result),
            Done::CheckAgain => self.stream = StreamCheck::Due,
            Done::Refilled { tenant, result } => self.refilled(tenant, result),
            Done::Raised { tenant, result } => {
                if let Err(error) = result {
                    tracing::warn!(%tenant, error = %Causes(&error), "a generation cannot be raised");
                }
                if let Some(lane) = self.lanes.get_mut(&tenant) {
                    lane.dispute();
                }
                self.refresh();
            }
        }
    }

    fn page_done(&mut self, tenant: TenantId, page: &Page, published: Published) {
        self.pages -= 1;
        let Some(lane) = self.lanes.get_mut(&tenant) else { return };
        metrics::counter!("annals_relay_published_total")
            .increment(published.acked_to.saturating_sub(page.after));
        if published.mark.sequence > self.farthest.map_or(0, |witness| witness.mark.sequence) {
            self.farthest = Some(Witness { log: page.log_id, mark: published.mark });
        }
        if lane.acked(page, &published) {
            self.dirty.push(tenant);
        }
        match published.failure {
            None => {
                lane.end(published.full);
                self.queue(tenant);
            }
            Some(error) => {
                let wait = backoff(lane.fail());
                tracing::warn!(%tenant, error = %Causes(&error), retry_in_ms = wait.as_millis(), "publishing was interrupted");
                self.work.push(tokio::time::sleep(wait).map(move |()| Done::Waited(tenant)).boxed());
                if !error.is_store() {
                    self.doubt();
                }
                if matches!(error, PublishFailure::Suppressed(_)) {
                    self.raise(tenant);
                }
            }
        }
    }

    fn progress_read(&mut self, result: Result<Vec<RelayProgress>, StoreError>) {
        self.refreshing = false;
        match result {
            Ok(progress) => {
                let mut lag = 0;
                for row in progress {
                    let tenant = row.tenant;
                    lag += row.head.saturating_sub(row.acked);
                    match self.lanes.get_mut(&tenant) {
                        Some(lane) => lane.refreshed(&row),
                        None => {
                            self.lanes.insert(tenant, Lane::new(&row));
                        }
                    }
                    self.queue(tenant);
                }
                metrics::gauge!("annals_relay_lag_events").set(lag as f64);
            }
            Err(error) => tracing::warn!(error = %Causes(&error), "the relay cannot read its progress"),
        }
        if std::mem::take(&mut self.refresh_again) {
            self.refresh();
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
                    let Some(lane) = self.lanes.get_mut(&wanted.tenant) else { continue };
                    if moved.contains(&wanted.tenant) {
                        if lane.stored(wanted) {
                            self.dirty.push(wanted.tenant);
                        }
                    } else {
                        lane.dispute();
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
                    if let Some(lane) = self.lanes.get_mut(&wanted.tenant)
                        && lane.unmoved()
                    {
                        self.dirty.push(wanted.tenant);
                    }
                }
            }
        }
    }

    fn checked(&mut self, result: Result<Verdict, NatsError>) {
        let doubted = self.stream == StreamCheck::RunningDoubted;
        match result {
            Ok(Verdict { removed, incarnation, doubtful, started_over }) => {
                self.check_failures = 0;
                if self.examined.as_ref() != Some(&incarnation) {
                    // What is known of heads may be of another life.
                    self.refresh();
                    self.examined = Some(incarnation);
                }
                self.stream = if doubted { StreamCheck::Due } else { StreamCheck::Good };
                self.removed = removed;
                if started_over {
                    self.lanes.values_mut().for_each(Lane::dispute);
                    self.refresh();
                    self.stream = StreamCheck::Due;
                }
                if started_over || !doubtful.is_empty() {
                    // The message that it speaks of may be among the lost.
                    self.farthest = None;
                }
                for tenant in std::mem::take(&mut self.doubtful) {
                    if let Some(lane) = self.lanes.get_mut(&tenant) {
                        lane.let_go();
                    }
                    self.queue(tenant);
                }
                self.doubtful = doubtful
                    .into_iter()
                    .filter(|tenant| self.share.owns(*tenant) && !self.refilling.contains(tenant))
                    .collect();
            }
            Err(error) => {
                self.check_failures += 1;
                let wait = backoff(self.check_failures);
                if self.check_failures == 1 || !error.is_unavailable() {
                    tracing::warn!(error = %Causes(&error), "the relay waits for JetStream");
                }
                // Stays `Running`, so that nothing is published until the next look.
                self.stream = StreamCheck::Running;
                self.work.push(tokio::time::sleep(wait).map(|()| Done::CheckAgain).boxed());
            }
        }
    }

    /// Waits for what is in flight, within bounds, and stores how far it came.
    async fn stop(mut self) {
        let farewell = async {
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
        // Whatever is not stored in time is published again by the next relay, under the same ids.
        drop(tokio::time::timeout(FAREWELL, farewell).await);
    }
}

/// The wait after so many failures in a row; none after none.
fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    match failures.checked_sub(1) {
        Some(doublings) => first.saturating_mul(2u32.saturating_pow(doublings.min(10))).min(longest),
        None => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound() {
        assert_eq!(backoff(0), Duration::ZERO);
        assert_eq!(backoff(1), Duration::from_millis(50));
        assert_eq!(backoff(3), Duration::from_millis(200));
        assert_eq!(backoff(60), Duration::from_secs(5));
    }
}
