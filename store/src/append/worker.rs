//! An append worker: one append connection, the caches of its tenants, and the loop that plans and writes flushes.

mod preload;
mod recovery;

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use lru::LruCache;
use schemas::engine::{LogId, StreamName, TenantId, clock};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::preload::PreloadError;
use super::error::AppendError;
use super::lookup::Lookup;
use super::pending::{EVENT_ID_KIND, PendingAppend};
use super::plan::{Decision, HeadView, Plan, ReservationKey, plan};
use super::receipt::Receipt;
use super::rejection::{FlushError, classify_flush_error};
use super::scheduler::select_batch;
use super::write::{WriteResult, Writer};
use crate::database_instance::{DatabaseInstance, RestoreGuard};
use crate::event_ids::EventIds;
use crate::pools::{Logins, Pools};
use crate::signals::Signals;
use crate::{DeploymentKey, StoreError};

/// Maximum cached tenants, and maximum cached stream versions per tenant.
const TENANT_CACHE_CAPACITY: usize = 4_096;
const VERSION_CACHE_CAPACITY: usize = 65_536;
/// Maximum attempts of an append; beyond that it fails with [`AppendError::Overloaded`].
const APPEND_ATTEMPTS_MAX: u32 = 64;
/// Maximum wait for an answer of PostgreSQL. Afterwards the connection is closed, and the outcome is unknown.
/// The statement timeout of the server is shorter, so that a working server gives a definite answer first.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(4);
/// Maximum time to resolve an unknown outcome. Afterwards the callers get [`AppendError::Unavailable`].
const OUTCOME_RESOLUTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum flushes in flight on one connection: PostgreSQL executes one while the worker plans and sends the next.
/// The second one needs this many queued appends: with fewer, one larger flush is faster than two small ones.
const IN_FLIGHT_FLUSHES_MAX: usize = 2;
const SECOND_FLUSH_APPENDS_MIN: usize = 48;

struct TenantCache {
    /// The expected head after all flushes in flight have committed.
    head: HeadView,
    versions: LruCache<StreamName, u64>,
}

/// The result of a flush.
struct FlushResult {
    batch: Vec<PendingAppend>,
    plan: Plan,
    written: WriteResult,
}

/// A flush that was sent and is not answered yet.
struct InFlightFlush {
    answer: Pin<Box<dyn Future<Output = FlushResult> + Send>>,
    /// Keys that later appends must wait for, because look-ups do not see them before the commit.
    claims: HashSet<(TenantId, Uuid)>,
    reserved: HashSet<(TenantId, ReservationKey)>,
    /// The tenants with writes in the flush.
    tenants: Vec<TenantId>,
}

pub(super) struct AppendWorker {
    key: DeploymentKey,
    logins: Logins,
    /// Idle connections are closed after this time.
    idle_timeout: Duration,
    signals: Arc<Signals>,
    restore_guard: Arc<RestoreGuard>,
    event_ids: Arc<EventIds>,
    receiver: UnboundedReceiver<PendingAppend>,
    waiting: VecDeque<PendingAppend>,
    cache: LruCache<TenantId, TenantCache>,
    /// The last positions that this worker committed. A head below them shows that the database lost events.
    committed: LruCache<TenantId, (LogId, u64)>,
    /// The database instance of the open connections.
    database_instance: Option<DatabaseInstance>,
    connections: Option<(Arc<Writer>, Lookup)>,
    in_flight: VecDeque<InFlightFlush>,
    /// Tenants that another process writes to as well. Their heads are locked before planning.
    /// With the swap alone, the faster process could win every time.
    contended: HashSet<TenantId>,
    /// The deadline for unknown outcomes; set by the first one and cleared by a new connection.
    resolution_deadline: Option<Instant>,
}

impl AppendWorker {
    pub(super) fn new(
        key: DeploymentKey,
        pools: &Pools,
        signals: Arc<Signals>,
        restore_guard: Arc<RestoreGuard>,
        event_ids: Arc<EventIds>,
        receiver: UnboundedReceiver<PendingAppend>,
    ) -> Self {
        let capacity = NonZeroUsize::new(TENANT_CACHE_CAPACITY).expect("the capacity is positive");
        Self {
            key,
            logins: pools.logins.clone(),
            idle_timeout: pools.idle_timeout,
            signals,
            restore_guard,
            event_ids,
            receiver,
            waiting: VecDeque::new(),
            cache: LruCache::new(capacity),
            committed: LruCache::new(capacity),
            database_instance: None,
            connections: None,
            in_flight: VecDeque::new(),
            contended: HashSet::new(),
            resolution_deadline: None,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut stopping = false;
        loop {
            while let Ok(pending) = self.receiver.try_recv() {
                self.waiting.push_back(pending);
            }
            if self.can_submit() {
                let batch = select_batch(&mut self.waiting);
                if self.begin(batch).await {
                    continue;
                }
            } else if stopping && self.in_flight.is_empty() && self.receiver.is_empty() {
                return;
            }
            let idle = self.connections.is_some() && self.in_flight.is_empty() && self.waiting.is_empty();
            let idle_timeout = self.idle_timeout;
            let completion = async {
                match self.in_flight.front_mut() {
                    Some(flush) => (&mut flush.answer).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                flush_result = completion => self.complete(flush_result).await,
                pending = self.receiver.recv() => match pending {
                    Some(pending) => self.waiting.push_back(pending),
                    None if self.in_flight.is_empty() && self.waiting.is_empty() => return,
                    // The queue is closed; the flushes in flight still complete.
                    None => self.complete_next().await,
                },
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    self.receiver.close();
                }
                () = tokio::time::sleep(idle_timeout), if idle => self.connections = None,
            }
        }
    }

    fn can_submit(&self) -> bool {
        match self.in_flight.len() {
            0 => !self.waiting.is_empty(),
            in_flight => in_flight < IN_FLIGHT_FLUSHES_MAX && self.waiting.len() >= SECOND_FLUSH_APPENDS_MIN,
        }
    }

    /// Plans and sends a flush; contended tenants go in a flush of their own.
    /// Returns `false` when nothing can be sent before a flush in flight completes.
    async fn begin(&mut self, mut batch: Vec<PendingAppend>) -> bool {
        let contended =
            batch.extract_if(.., |pending| self.contended.contains(&pending.tenant)).collect::<Vec<_>>();
        if contended.is_empty() {
            return self.submit(batch, false).await;
        }
        self.return_to_queue(batch);
        if !self.in_flight.is_empty() {
            self.return_to_queue(contended);
            return false;
        }
        self.submit(contended, true).await
    }

    fn return_to_queue(&mut self, batch: Vec<PendingAppend>) {
        for pending in batch.into_iter().rev() {
            self.waiting.push_front(pending);
        }
    }

    async fn submit(&mut self, batch: Vec<PendingAppend>, locked: bool) -> bool {
        let mut batch: Vec<PendingAppend> =
            batch.into_iter().filter(|pending| !pending.reply.is_closed()).collect();
        if !self.in_flight.is_empty() {
            let held = batch.extract_if(.., |pending| self.waits_for_in_flight(pending)).collect::<Vec<_>>();
            self.return_to_queue(held);
        }
        if batch.is_empty() {
            return self.in_flight.is_empty();
        }
        let begun = Instant::now();
        let mut preload = self.preload(&batch, locked).await;
        if matches!(preload, Err(PreloadError::Failed(_))) && begun.elapsed() < DATABASE_TIMEOUT / 5 {
            // Nothing was written yet. The connection may have ended while it was idle, so retry once.
            preload = self.preload(&batch, locked).await;
        }
        let preload = match preload {
            Ok(preload) => preload,
            // Another process holds a head for too long. PostgreSQL ends its transaction, or it commits.
            Err(PreloadError::HeadLocked) => {
                self.requeue_with_penalty(batch, 8);
                return true;
            }
            Err(PreloadError::Failed(error)) => {
                reject_all(batch, &error);
                return true;
            }
        };
        let plan = plan(&batch, &preload, clock::now(), &self.event_ids, &|tenant, kind, value| {
            self.digest(tenant, kind, value)
        });
        for (tenant, (_, after)) in &plan.moves {
            if let Some(cache) = self.cache.get_mut(tenant) {
                cache.head = after.clone();
            }
        }
        let (mut claims, mut reserved) = (HashSet::new(), HashSet::new());
        for (index, (pending, decision)) in batch.iter().zip(&plan.decisions).enumerate() {
            let Decision::Write(receipt) = decision else { continue };
            if let Some(cache) = self.cache.get_mut(&pending.tenant) {
                cache.versions.put(receipt.stream.clone(), receipt.version);
            }
            claims.extend(pending.append.claim.map(|claim| (pending.tenant, claim.key)));
            let keys = plan.reservations[index].iter().chain(&plan.releases[index]);
            reserved.extend(keys.map(|key| (pending.tenant, *key)));
        }
        metrics::histogram!("annals_append_flush_events").record(plan.rows.len() as f64);
        let (writer, _) = self.connections.as_ref().expect("the look-ups needed the connections");
        let writer = Arc::clone(writer);
        let tenants = plan.moves.keys().copied().collect();
        let mut answer: Pin<Box<dyn Future<Output = FlushResult> + Send>> = Box::pin(async move {
            let writing = async {
                match (plan.moves.is_empty(), locked) {
                    (false, locked) => writer.write(&batch, &plan, locked).await,
                    (true, false) => WriteResult::Committed(HashSet::new()),
                    (true, true) => match writer.rollback().await {
                        Ok(()) => WriteResult::Committed(HashSet::new()),
                        Err(error) => WriteResult::Unknown(error.into()),
                    },
                }
            };
            let written = bounded(writing).await.unwrap_or_else(|error| {
                writer.abort();
                WriteResult::Unknown(error)
            });
            FlushResult { batch, plan, written }
        });
        // The first poll sends the flush, before any flush that is planned on top of it.
        if let Poll::Ready(flush_result) = futures::poll!(&mut answer) {
            answer = Box::pin(std::future::ready(flush_result));
        }
        self.in_flight.push_back(InFlightFlush { answer, claims, reserved, tenants });
        true
    }

    fn digest(&self, tenant: TenantId, kind: &str, value: &str) -> [u8; 32] {
        self.key.reservation_digest(tenant, kind, value)
    }

    /// Whether an append depends on a flush in flight that look-ups do not see yet.
    fn waits_for_in_flight(&self, pending: &PendingAppend) -> bool {
        let append = &pending.append;
        let claimed = append.claim.is_some_and(|claim| {
            self.in_flight.iter().any(|flush| flush.claims.contains(&(pending.tenant, claim.key)))
        });
        let is_under_way = |key: ReservationKey| {
            self.in_flight.iter().any(|flush| flush.reserved.contains(&(pending.tenant, key)))
        };
        claimed
            || pending.event_ids.iter().any(|(_, digest)| is_under_way((EVENT_ID_KIND, *digest)))
            || append.digest_releases.iter().any(|held| is_under_way((held.kind, held.digest)))
            || append.reservations.iter().chain(&append.releases).any(|reservation| {
                is_under_way((
                    reservation.kind,
                    self.digest(pending.tenant, reservation.kind, &reservation.value),
                ))
            })
    }

    /// Waits for the oldest flush in flight.
    async fn complete_next(&mut self) {
        if let Some(flush) = self.in_flight.front_mut() {
            let flush_result = (&mut flush.answer).await;
            self.complete(flush_result).await;
        }
    }

    async fn complete(&mut self, flush_result: FlushResult) {
        if self.in_flight.pop_front().is_none() {
            return;
        }
        let FlushResult { batch, plan, written } = flush_result;
        match written {
            WriteResult::Committed(swapped) => self.apply_result(batch, plan, &swapped),
            WriteResult::Rejected(error) => {
                self.evict(plan.moves.keys());
                match classify_flush_error(&error) {
                    Some(FlushError::Transient) => return self.requeue_with_penalty(batch, 8),
                    Some(FlushError::Permanent) => return reject_all(batch, &StoreError::from(error)),
                    None => {}
                }
                // Later flushes complete first, so that each half is written alone.
                while !self.in_flight.is_empty() {
                    Box::pin(self.complete_next()).await;
                }
                self.split(batch, error).await;
            }
            WriteResult::Unknown(error) => self.resolve_unknown_outcome(batch, plan, &error).await,
        }
    }

    /// Drops the caches of tenants whose flush failed.
    /// Later flushes expect a fence that was never stored, so they fail too.
    fn evict<'a>(&mut self, tenants: impl Iterator<Item = &'a TenantId>) {
        for tenant in tenants {
            self.cache.pop(tenant);
        }
    }

    /// Answers the callers and requeues the appends that are not decided.
    fn apply_result(&mut self, batch: Vec<PendingAppend>, plan: Plan, swapped: &HashSet<TenantId>) {
        let lost: Vec<TenantId> =
            plan.moves.keys().copied().filter(|tenant| !swapped.contains(tenant)).collect();
        metrics::counter!("annals_append_cas_conflicts_total").increment(lost.len() as u64);
        self.evict(lost.iter());
        self.contended.extend(lost);
        let mut again = Vec::new();
        let mut moved: HashMap<TenantId, (LogId, u64)> = HashMap::new();
        for (mut pending, decision) in batch.into_iter().zip(plan.decisions) {
            let tenant = pending.tenant;
            let is_swapped = swapped.contains(&tenant);
            match decision {
                Decision::Write(receipt) if is_swapped => {
                    moved.insert(tenant, (receipt.log_id, receipt.position));
                    self.committed.put(tenant, (receipt.log_id, receipt.position));
                    answer(pending, Ok(receipt));
                }
                Decision::Answer { result, requires_swap } if is_swapped || !requires_swap => {
                    answer(pending, result);
                }
                Decision::Refresh => {
                    self.cache.pop(&tenant);
                    pending.attempts += 1;
                    again.push(pending);
                }
                Decision::Answer { .. } => {
                    pending.needs_version_lookup = true;
                    pending.attempts += 1;
                    again.push(pending);
                }
                Decision::Defer | Decision::Write(_) => {
                    pending.attempts += 1;
                    again.push(pending);
                }
            }
        }
        for (tenant, (log_id, position)) in moved {
            self.signals.announce_head(tenant, log_id, position);
        }
        self.requeue(again);
    }

    /// Requeues appends, and counts the failure as this many attempts.
    fn requeue_with_penalty(&mut self, mut batch: Vec<PendingAppend>, attempts: u32) {
        for pending in &mut batch {
            pending.attempts += attempts;
        }
        self.requeue(batch);
    }

    fn requeue(&mut self, again: Vec<PendingAppend>) {
        for pending in again.into_iter().rev() {
            if pending.attempts > APPEND_ATTEMPTS_MAX {
                answer(pending, Err(AppendError::Overloaded));
            } else {
                self.waiting.push_front(pending);
            }
        }
    }
}

/// Limits every wait for PostgreSQL to `DATABASE_TIMEOUT`.
async fn bounded<T>(answer: impl Future<Output = T>) -> Result<T, StoreError> {
    let answered = tokio::time::timeout(DATABASE_TIMEOUT, answer).await;
    answered.map_err(|_| StoreError::Unavailable("the database gives no answer".to_owned()))
}

fn answer(pending: PendingAppend, result: Result<Receipt, AppendError>) {
    // A caller that has gone away gets no answer; its events stay committed.
    drop(pending.reply.send(result));
}

fn reject_all(batch: Vec<PendingAppend>, error: &StoreError) {
    for pending in batch {
        let rejection = match error {
            StoreError::Overloaded => AppendError::Overloaded,
            other => AppendError::Unavailable(StoreError::Unavailable(other.to_string())),
        };
        answer(pending, Err(rejection));
    }
}
