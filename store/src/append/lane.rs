//! A lane: one append connection, the caches of the tenants it writes, and the loop that gathers, plans and writes
//! flushes.

mod facts;

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

use self::facts::LearnError;
use super::lookup::Lookup;
use super::outcome::{Refusal, Trouble, classify, server_trouble};
use super::plan::{Decision, EVENT_ID, HeadView, Plan, ReservationKey, plan};
use super::queue::Pending;
use super::turns::next_flush;
use super::write::{Writer, Written};
use super::{AppendError, Receipt};
use crate::event_ids::EventIds;
use crate::incarnation::{Gate, Incarnation};
use crate::pools::{Logins, Pools};
use crate::signals::Signals;
use crate::{Causes, Claim, DeploymentKey, StoreError};

/// Most tenants remembered, and most stream versions of each.
const TENANTS: usize = 4_096;
const VERSIONS: usize = 65_536;
/// How often an append may lose before its caller is told that the database is too busy.
const TRIES: u32 = 64;
/// How long the lane waits for any answer of PostgreSQL. Beyond, the connection is given up, and what was sent on it has an
/// unknown outcome. The server's own limit lies below, so that a server that can still speak gives a definite answer.
const ANSWER: Duration = Duration::from_secs(4);
/// How long an unknown outcome is pursued before the callers are told that it is unknown.
const PURSUIT: Duration = Duration::from_secs(5);

/// Flushes under way at once on one connection: PostgreSQL works on one while the next is made and sent. The second
/// goes only when this many appends wait: below that, two small flushes are slower than one larger.
const FLIGHTS: usize = 2;
const SECOND_FLIGHT: usize = 48;

struct TenantCache {
    /// Where the log will end when everything under way has landed.
    head: HeadView,
    versions: LruCache<StreamName, u64>,
}

/// A flush that has been answered.
struct Landed {
    batch: Vec<Pending>,
    plan: Plan,
    written: Written,
}

/// A flush under way.
struct Flight {
    answer: Pin<Box<dyn Future<Output = Landed> + Send>>,
    /// What appends of a later flush must wait for, because look-ups cannot see it yet.
    claims: HashSet<(TenantId, Uuid)>,
    reserved: HashSet<(TenantId, ReservationKey)>,
    /// The tenants that it writes to.
    tenants: Vec<TenantId>,
}

pub(super) struct Lane {
    key: DeploymentKey,
    logins: Logins,
    /// How long the connections are kept without an append.
    idle_timeout: Duration,
    signals: Arc<Signals>,
    gate: Arc<Gate>,
    event_ids: Arc<EventIds>,
    receiver: UnboundedReceiver<Pending>,
    waiting: VecDeque<Pending>,
    cache: LruCache<TenantId, TenantCache>,
    /// Where logs ended when this lane last committed to them: a database that ends before has lost something.
    committed: LruCache<TenantId, (LogId, u64)>,
    /// The life of the database that the connections are to.
    incarnation: Option<Incarnation>,
    connections: Option<(Arc<Writer>, Lookup)>,
    flights: VecDeque<Flight>,
    /// Tenants that another process writes to as well: their heads are locked before a flush is planned, because the swap
    /// alone lets the quicker process win again and again.
    contended: HashSet<TenantId>,
    /// Until when unknown outcomes are pursued, from the first one on until there is a connection again.
    pursuit: Option<Instant>,
}

impl Lane {
    pub(super) fn new(
        key: DeploymentKey,
        pools: &Pools,
        signals: Arc<Signals>,
        gate: Arc<Gate>,
        event_ids: Arc<EventIds>,
        receiver: UnboundedReceiver<Pending>,
    ) -> Self {
        let capacity = NonZeroUsize::new(TENANTS).expect("the capacity is positive");
        Self {
            key,
            logins: pools.logins.clone(),
            idle_timeout: pools.idle_timeout,
            signals,
            gate,
            event_ids,
            receiver,
            waiting: VecDeque::new(),
            cache: LruCache::new(capacity),
            committed: LruCache::new(capacity),
            incarnation: None,
            connections: None,
            flights: VecDeque::new(),
            contended: HashSet::new(),
            pursuit: None,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut stopping = false;
        loop {
            while let Ok(pending) = self.receiver.try_recv() {
                self.waiting.push_back(pending);
            }
            if self.may_launch() {
                let batch = next_flush(&mut self.waiting);
                if self.begin(batch).await {
                    continue;
                }
            } else if stopping && self.flights.is_empty() && self.receiver.is_empty() {
                return;
            }
            let idle = self.connections.is_some() && self.flights.is_empty() && self.waiting.is_empty();
            let idle_timeout = self.idle_timeout;
            let landing = async {
                match self.flights.front_mut() {
                    Some(flight) => (&mut flight.answer).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                landed = landing => self.land_first(landed).await,
                pending = self.receiver.recv() => match pending {
                    Some(pending) => self.waiting.push_back(pending),
                    None if self.flights.is_empty() && self.waiting.is_empty() => return,
                    // Closed: what is under way still lands.
                    None => self.land_next().await,
                },
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    self.receiver.close();
                }
                () = tokio::time::sleep(idle_timeout), if idle => self.connections = None,
            }
        }
    }

    fn may_launch(&self) -> bool {
        match self.flights.len() {
            0 => !self.waiting.is_empty(),
            flights => flights < FLIGHTS && self.waiting.len() >= SECOND_FLIGHT,
        }
    }

    /// Plans a flush and sends it, those of contended tenants by themselves; `false` when nothing could be sent before
    /// something lands.
    async fn begin(&mut self, mut batch: Vec<Pending>) -> bool {
        let contended =
            batch.extract_if(.., |pending| self.contended.contains(&pending.tenant)).collect::<Vec<_>>();
        if contended.is_empty() {
            return self.launch(batch, false).await;
        }
        self.return_to_queue(batch);
        if !self.flights.is_empty() {
            self.return_to_queue(contended);
            return false;
        }
        self.launch(contended, true).await
    }

    fn return_to_queue(&mut self, batch: Vec<Pending>) {
        for pending in batch.into_iter().rev() {
            self.waiting.push_front(pending);
        }
    }

    async fn launch(&mut self, batch: Vec<Pending>, locked: bool) -> bool {
        let mut batch: Vec<Pending> =
            batch.into_iter().filter(|pending| !pending.reply.is_closed()).collect();
        if !self.flights.is_empty() {
            let held = batch.extract_if(.., |pending| self.waits_for_a_flight(pending)).collect::<Vec<_>>();
            self.return_to_queue(held);
        }
        if batch.is_empty() {
            return self.flights.is_empty();
        }
        let begun = Instant::now();
        let mut facts = self.learn(&batch, locked).await;
        if matches!(facts, Err(LearnError::Failed(_))) && begun.elapsed() < ANSWER / 5 {
            // Nothing was sent that could be written, and a connection may have ended while nobody used it.
            facts = self.learn(&batch, locked).await;
        }
        let facts = match facts {
            Ok(facts) => facts,
            // Another process stands still with a head; it will be ended, or go on.
            Err(LearnError::Held) => {
                self.put_back_after(batch, 8);
                return true;
            }
            Err(LearnError::Failed(error)) => {
                refuse_all(batch, &error);
                return true;
            }
        };
        let plan = plan(&batch, &facts, clock::now(), &self.event_ids, &|tenant, kind, value| {
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
        let mut answer: Pin<Box<dyn Future<Output = Landed> + Send>> = Box::pin(async move {
            let writing = async {
                match (plan.moves.is_empty(), locked) {
                    (false, locked) => writer.write(&batch, &plan, locked).await,
                    (true, false) => Written::Committed(HashSet::new()),
                    (true, true) => match writer.let_go().await {
                        Ok(()) => Written::Committed(HashSet::new()),
                        Err(error) => Written::Unknown(error.into()),
                    },
                }
            };
            let written = bounded(writing).await.unwrap_or_else(|error| {
                writer.abandon();
                Written::Unknown(error)
            });
            Landed { batch, plan, written }
        });
        // Polled once, so that it is sent before anything that is planned on top of it.
        if let Poll::Ready(landed) = futures::poll!(&mut answer) {
            answer = Box::pin(std::future::ready(landed));
        }
        self.flights.push_back(Flight { answer, claims, reserved, tenants });
        true
    }

    fn digest(&self, tenant: TenantId, kind: &str, value: &str) -> [u8; 32] {
        crate::tenant::reservation_digest(&self.key, tenant, kind, value)
    }

    /// Whether an append depends on something under way that a look-up cannot see.
    fn waits_for_a_flight(&self, pending: &Pending) -> bool {
        let append = &pending.append;
        let claimed = append.claim.is_some_and(|claim| {
            self.flights.iter().any(|flight| flight.claims.contains(&(pending.tenant, claim.key)))
        });
        let is_under_way = |key: ReservationKey| {
            self.flights.iter().any(|flight| flight.reserved.contains(&(pending.tenant, key)))
        };
        claimed
            || pending.event_ids.iter().any(|(_, digest)| is_under_way((EVENT_ID, *digest)))
            || append.frees.iter().any(|held| is_under_way((held.kind, held.digest)))
            || append.reservations.iter().chain(&append.releases).any(|wanted| {
                is_under_way((wanted.kind, self.digest(pending.tenant, wanted.kind, &wanted.value)))
            })
    }

    /// Waits for the flush that was sent first.
    async fn land_next(&mut self) {
        if let Some(flight) = self.flights.front_mut() {
            let landed = (&mut flight.answer).await;
            self.land_first(landed).await;
        }
    }

    async fn land_first(&mut self, landed: Landed) {
        if self.flights.pop_front().is_none() {
            return;
        }
        let Landed { batch, plan, written } = landed;
        match written {
            Written::Committed(winners) => self.settle(batch, plan, &winners),
            Written::Refused(error) => {
                self.forget(plan.moves.keys());
                match server_trouble(&error) {
                    Some(Trouble::Passing) => return self.put_back_after(batch, 8),
                    Some(Trouble::Lasting) => return refuse_all(batch, &StoreError::from(error)),
                    None => {}
                }
                // What was sent on top of it lands first, so that the parts go alone.
                while !self.flights.is_empty() {
                    Box::pin(self.land_next()).await;
                }
                self.split(batch, error).await;
            }
            Written::Unknown(error) => self.pursue(batch, plan, &error).await,
        }
    }

    /// Forgets tenants whose flush failed. A flush on top of it names a fence that the head has never had, so it fails too.
    fn forget<'a>(&mut self, tenants: impl Iterator<Item = &'a TenantId>) {
        for tenant in tenants {
            self.cache.pop(tenant);
        }
    }

    /// Answers the callers and puts back what must go again.
    fn settle(&mut self, batch: Vec<Pending>, plan: Plan, winners: &HashSet<TenantId>) {
        let lost: Vec<TenantId> =
            plan.moves.keys().copied().filter(|tenant| !winners.contains(tenant)).collect();
        metrics::counter!("annals_append_cas_conflicts_total").increment(lost.len() as u64);
        self.forget(lost.iter());
        self.contended.extend(lost);
        let mut again = Vec::new();
        let mut moved: HashMap<TenantId, u64> = HashMap::new();
        for (mut pending, decision) in batch.into_iter().zip(plan.decisions) {
            let tenant = pending.tenant;
            let won = winners.contains(&tenant);
            match decision {
                Decision::Write(receipt) if won => {
                    moved.insert(tenant, receipt.position);
                    self.committed.put(tenant, (receipt.log_id, receipt.position));
                    answer(pending, Ok(receipt));
                }
                Decision::Answer { result, needs_swap } if won || !needs_swap => answer(pending, result),
                Decision::Refresh => {
                    self.cache.pop(&tenant);
                    pending.tries += 1;
                    again.push(pending);
                }
                Decision::Answer { .. } => {
                    pending.in_doubt = true;
                    pending.tries += 1;
                    again.push(pending);
                }
                Decision::Defer | Decision::Write(_) => {
                    pending.tries += 1;
                    again.push(pending);
                }
            }
        }
        for (tenant, position) in moved {
            self.signals.head_moved_here(tenant, position);
        }
        self.put_back(again);
    }

    /// Puts back what a hindrance has cost as much as this many lost swaps.
    fn put_back_after(&mut self, mut batch: Vec<Pending>, tries: u32) {
        for pending in &mut batch {
            pending.tries += tries;
        }
        self.put_back(batch);
    }

    fn put_back(&mut self, again: Vec<Pending>) {
        for pending in again.into_iter().rev() {
            if pending.tries > TRIES {
                answer(pending, Err(AppendError::Overloaded));
            } else {
                self.waiting.push_front(pending);
            }
        }
    }

    /// A flush that PostgreSQL refused is halved until the append at fault stands alone: one tenant's poison never fails
    /// another's append.
    async fn split(&mut self, mut batch: Vec<Pending>, error: tokio_postgres::Error) {
        metrics::counter!("annals_append_flush_splits_total").increment(1);
        for pending in &batch {
            self.cache.pop(&pending.tenant);
        }
        if batch.len() > 1 {
            let back = batch.split_off(batch.len() / 2);
            for half in [batch, back] {
                Box::pin(self.flush_alone(half)).await;
            }
            return;
        }
        for pending in batch {
            match classify(&error) {
                Refusal::LookAgain => self.put_back_after(vec![pending], 8),
                Refusal::Final(refusal) | Refusal::Unavailable(refusal) => answer(pending, Err(refusal)),
            }
        }
    }

    async fn flush_alone(&mut self, batch: Vec<Pending>) {
        let locked = batch.iter().any(|pending| self.contended.contains(&pending.tenant));
        self.launch(batch, locked).await;
        while !self.flights.is_empty() {
            self.land_next().await;
        }
    }

    /// The outcome is unknown: makes sure that the old transaction is over or can never win, then looks whether it happened.
    async fn pursue(&mut self, batch: Vec<Pending>, plan: Plan, error: &StoreError) {
        tracing::warn!(error = %Causes(error), "the outcome of a flush is unknown; looking it up");
        self.connections = None;
        let deadline = *self.pursuit.get_or_insert_with(|| Instant::now() + PURSUIT);
        let mut pause = Duration::from_millis(20);
        while Instant::now() < deadline {
            if let Ok(winners) = bounded(self.find_winners(&batch, &plan)).await.flatten() {
                return self.settle(batch, plan, &winners);
            }
            self.connections = None;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
        self.forget(plan.moves.keys());
        refuse_all(batch, error);
    }

    async fn find_winners(
        &mut self,
        batch: &[Pending],
        plan: &Plan,
    ) -> Result<HashSet<TenantId>, StoreError> {
        self.connect().await?;
        let (writer, lookup) = self.connections.as_ref().expect("just connected");
        let mut winners = HashSet::new();
        for tenant in plan.moves.keys() {
            writer.fence(*tenant).await?;
            let won = if let Some(row) = plan.rows.iter().find(|row| row.tenant == *tenant) {
                lookup.holds(*tenant, row.position, row.event_id).await?
            } else {
                // Nothing but receipts of commands without effect.
                let claim = written_claim(batch, plan, *tenant).expect("a moved tenant has a receipt");
                lookup.holds_receipt(*tenant, claim, plan.planned_at).await?
            };
            if won {
                winners.insert(*tenant);
            }
        }
        Ok(winners)
    }
}

/// The claim of the first append of a tenant that the flush writes.
fn written_claim<'a>(batch: &'a [Pending], plan: &Plan, tenant: TenantId) -> Option<&'a Claim> {
    let mut written = batch.iter().zip(&plan.decisions);
    let (pending, _) = written
        .find(|(pending, decision)| pending.tenant == tenant && matches!(decision, Decision::Write(_)))?;
    pending.append.claim.as_ref()
}

/// No wait for PostgreSQL is endless.
async fn bounded<T>(answer: impl Future<Output = T>) -> Result<T, StoreError> {
    let answered = tokio::time::timeout(ANSWER, answer).await;
    answered.map_err(|_| StoreError::Unavailable("the database gives no answer".to_owned()))
}

fn answer(pending: Pending, result: Result<Receipt, AppendError>) {
    // A caller that has gone needs no answer; its events stand.
    drop(pending.reply.send(result));
}

fn refuse_all(batch: Vec<Pending>, error: &StoreError) {
    for pending in batch {
        let refusal = match error {
            StoreError::Overloaded => AppendError::Overloaded,
            other => AppendError::Unavailable(StoreError::Unavailable(other.to_string())),
        };
        answer(pending, Err(refusal));
    }
}
