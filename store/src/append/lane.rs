//! A lane: one append connection, the caches of the tenants it writes, and the loop that gathers, plans and writes
//! flushes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use lru::LruCache;
use schemas::engine::{LogId, StreamName, TenantId, clock};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::lookup::{Found, Lookup, Wanted};
use super::outcome::{Refusal, classify};
use super::plan::{Decision, HeadView, Plan, ReservationKey, TenantFacts, plan};
use super::queue::Pending;
use super::write::{Writer, Written};
use super::{AppendError, Receipt};
use crate::incarnation::{Gate, Incarnation};
use crate::logs::replace_where_lost;
use crate::pools::{Role, connect};
use crate::signals::Signals;
use crate::{StoreConfig, StoreError};

/// Most events of one flush, and most bytes.
const FLUSH_ROWS: usize = 512;
const FLUSH_BYTES: usize = 2 * 1024 * 1024;
/// Most tenants remembered, and most stream versions of each.
const TENANTS: usize = 4_096;
const VERSIONS: usize = 65_536;
/// How often an append may lose before its caller is told that the database is too busy.
const TRIES: u32 = 64;
/// How long an unknown outcome is pursued before the callers are told that it is unknown.
const PURSUIT: Duration = Duration::from_secs(10);

/// Tuned for statements over arrays: their plans never depend on the values, and an empty table at the first plan must
/// not fix a bad one.
const APPENDER_OPTIONS: &str = "-c plan_cache_mode=force_generic_plan -c synchronous_commit=on";
const LOOKUP_OPTIONS: &str = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_mergejoin=off -c enable_hashjoin=off";

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
    /// Tenants whose flush before this one failed: what was decided for them on top of it does not hold.
    broken: HashSet<TenantId>,
}

pub(super) struct Lane {
    config: StoreConfig,
    signals: Arc<Signals>,
    gate: Arc<Gate>,
    receiver: UnboundedReceiver<Pending>,
    waiting: VecDeque<Pending>,
    cache: LruCache<TenantId, TenantCache>,
    /// Where logs ended when this lane last committed to them: a database that ends before has lost something.
    committed: LruCache<TenantId, (LogId, u64)>,
    /// The life of the database that the connections are to.
    incarnation: Option<Incarnation>,
    connections: Option<(Arc<Writer>, Lookup)>,
    flights: VecDeque<Flight>,
}

impl Lane {
    pub(super) fn new(
        config: StoreConfig,
        signals: Arc<Signals>,
        gate: Arc<Gate>,
        receiver: UnboundedReceiver<Pending>,
    ) -> Self {
        let capacity = NonZeroUsize::new(TENANTS).expect("the capacity is positive");
        Self {
            config,
            signals,
            gate,
            receiver,
            waiting: VecDeque::new(),
            cache: LruCache::new(capacity),
            committed: LruCache::new(capacity),
            incarnation: None,
            connections: None,
            flights: VecDeque::new(),
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut stopping = false;
        loop {
            while let Ok(pending) = self.receiver.try_recv() {
                self.waiting.push_back(pending);
            }
            if self.may_launch() {
                let batch = self.gather();
                if self.launch(batch).await {
                    continue;
                }
            } else if stopping && self.flights.is_empty() && self.receiver.is_empty() {
                return;
            }
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
            }
        }
    }

    fn may_launch(&self) -> bool {
        match self.flights.len() {
            0 => !self.waiting.is_empty(),
            flights => flights < FLIGHTS && self.waiting.len() >= SECOND_FLIGHT,
        }
    }

    /// Takes the next flush from what waits: everything when it fits, else turn by turn, so that a tenant with many
    /// appends waiting does not keep the others out. The order within a tenant stays.
    fn gather(&mut self) -> Vec<Pending> {
        let rows: usize = self.waiting.iter().map(|pending| pending.append.events.len()).sum();
        let bytes: usize = self.waiting.iter().map(|pending| pending.bytes).sum();
        if rows <= FLUSH_ROWS && bytes <= FLUSH_BYTES {
            return self.waiting.drain(..).collect();
        }
        let mut by_tenant: Vec<(TenantId, VecDeque<Pending>)> = Vec::new();
        let mut places: HashMap<TenantId, usize> = HashMap::new();
        for pending in self.waiting.drain(..) {
            let place = *places.entry(pending.tenant).or_insert_with(|| {
                by_tenant.push((pending.tenant, VecDeque::new()));
                by_tenant.len() - 1
            });
            by_tenant[place].1.push_back(pending);
        }
        let (mut batch, mut rows, mut bytes) = (Vec::new(), 0, 0);
        'full: loop {
            let mut took = false;
            for (_, queue) in &mut by_tenant {
                let Some(next) = queue.front() else { continue };
                let (more_rows, more_bytes) = (next.append.events.len(), next.bytes);
                if !batch.is_empty() && (rows + more_rows > FLUSH_ROWS || bytes + more_bytes > FLUSH_BYTES) {
                    break 'full;
                }
                (rows, bytes, took) = (rows + more_rows, bytes + more_bytes, true);
                batch.extend(queue.pop_front());
            }
            if !took {
                break;
            }
        }
        // A tenant that got its turn goes behind those that are still waiting for theirs.
        let turns = usize::from(by_tenant.len() > 1);
        by_tenant.rotate_left(turns);
        self.waiting = by_tenant.into_iter().flat_map(|(_, queue)| queue).collect();
        batch
    }

    /// Plans a flush and sends it; `false` when nothing could be sent before something lands.
    async fn launch(&mut self, batch: Vec<Pending>) -> bool {
        let mut batch: Vec<Pending> =
            batch.into_iter().filter(|pending| !pending.reply.is_closed()).collect();
        if !self.flights.is_empty() {
            let held = batch.extract_if(.., |pending| self.waits_for_a_flight(pending)).collect::<Vec<_>>();
            for pending in held.into_iter().rev() {
                self.waiting.push_front(pending);
            }
        }
        if batch.is_empty() {
            return self.flights.is_empty();
        }
        let facts = match self.gather_facts(&batch).await {
            Ok(facts) => facts,
            Err(error) => {
                if self.flights.is_empty() {
                    self.connections = None;
                }
                refuse_all(batch, &error);
                return true;
            }
        };
        let plan =
            plan(&batch, &facts, clock::now(), &|tenant, kind, value| self.digest(tenant, kind, value));
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
            claims.extend(pending.append.claim.map(|claim| (pending.tenant, claim.command_id)));
            let keys = plan.reservations[index].iter().chain(&plan.releases[index]);
            reserved.extend(keys.map(|key| (pending.tenant, *key)));
        }
        metrics::histogram!("append_flush_events").record(plan.rows.len() as f64);
        let (writer, _) = self.connections.as_ref().expect("the look-ups needed the connections");
        let writer = Arc::clone(writer);
        let mut answer: Pin<Box<dyn Future<Output = Landed> + Send>> = Box::pin(async move {
            let written = if plan.moves.is_empty() {
                Written::Committed(HashSet::new())
            } else {
                writer.write(&batch, &plan).await
            };
            Landed { batch, plan, written }
        });
        // Polled once, so that it is sent before anything that is planned on top of it.
        if let Poll::Ready(landed) = futures::poll!(&mut answer) {
            answer = Box::pin(std::future::ready(landed));
        }
        self.flights.push_back(Flight { answer, claims, reserved, broken: HashSet::new() });
        true
    }

    fn digest(&self, tenant: TenantId, kind: &str, value: &str) -> [u8; 32] {
        crate::tenant::reservation_digest(&self.config.key, tenant, kind, value)
    }

    /// Whether an append depends on something under way that a look-up cannot see.
    fn waits_for_a_flight(&self, pending: &Pending) -> bool {
        let append = &pending.append;
        let claimed = append.claim.is_some_and(|claim| {
            self.flights.iter().any(|flight| flight.claims.contains(&(pending.tenant, claim.command_id)))
        });
        claimed
            || append.reservations.iter().chain(&append.releases).any(|wanted| {
                let key = (wanted.kind, self.digest(pending.tenant, wanted.kind, &wanted.value));
                self.flights.iter().any(|flight| flight.reserved.contains(&(pending.tenant, key)))
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
        let Some(flight) = self.flights.pop_front() else { return };
        let Landed { batch, plan, written } = landed;
        match written {
            Written::Committed(winners) => self.settle(batch, plan, &winners, &flight.broken),
            Written::Refused(error) => {
                self.forget(plan.moves.keys().copied().collect());
                // What was sent on top of it lands first, so that the parts go alone.
                while !self.flights.is_empty() {
                    Box::pin(self.land_next()).await;
                }
                self.split(batch, error).await;
            }
            Written::Unknown(error) => self.pursue(batch, plan, error, &flight.broken).await,
        }
    }

    /// Forgets tenants whose flush failed, and with them whatever was decided on top of it.
    fn forget(&mut self, tenants: Vec<TenantId>) {
        for tenant in tenants {
            self.cache.pop(&tenant);
            for flight in &mut self.flights {
                flight.broken.insert(tenant);
            }
        }
    }

    /// What the planner needs: from the caches where they know, from one volley of look-ups where they do not.
    async fn gather_facts(
        &mut self,
        batch: &[Pending],
    ) -> Result<HashMap<TenantId, TenantFacts>, StoreError> {
        // First: a new connection drops the caches, from which the next lines tell what to look up.
        self.connect().await?;
        let mut wanted = Wanted::default();
        for pending in batch {
            let tenant = pending.tenant;
            let cached = self.cache.get(&tenant);
            if cached.is_none() {
                wanted.heads.insert(tenant);
            }
            if !cached.is_some_and(|cache| cache.versions.contains(&pending.append.stream)) {
                wanted.versions.insert((tenant, pending.append.stream.clone()));
            }
            if let Some(claim) = &pending.append.claim {
                wanted.receipts.insert((tenant, claim.command_id));
            }
            for reservation in &pending.append.reservations {
                let digest = crate::tenant::reservation_digest(
                    &self.config.key,
                    tenant,
                    reservation.kind,
                    &reservation.value,
                );
                wanted.reservations.insert((tenant, (reservation.kind, digest)));
            }
        }
        let mut found = Found::default();
        if !wanted.is_empty() {
            let (_, lookup) = self.connections.as_ref().expect("just connected");
            found = lookup.look_up(&wanted).await?;
        }
        for (tenant, head) in found.heads.drain() {
            let versions = LruCache::new(NonZeroUsize::new(VERSIONS).expect("the capacity is positive"));
            self.cache.put(tenant, TenantCache { head, versions });
        }
        Ok(self.assemble(batch, found))
    }

    fn assemble(&mut self, batch: &[Pending], found: Found) -> HashMap<TenantId, TenantFacts> {
        let mut facts: HashMap<TenantId, TenantFacts> = HashMap::new();
        for pending in batch {
            let Some(cache) = self.cache.get_mut(&pending.tenant) else { continue };
            let facts = facts.entry(pending.tenant).or_insert_with(|| TenantFacts {
                head: cache.head.clone(),
                versions: HashMap::new(),
                fresh: HashSet::new(),
                receipts: HashMap::new(),
                holders: HashMap::new(),
            });
            if let Some(version) = cache.versions.get(&pending.append.stream) {
                facts.versions.insert(pending.append.stream.clone(), *version);
            }
        }
        for ((tenant, stream), version) in found.versions {
            if let Some(facts) = facts.get_mut(&tenant) {
                facts.versions.insert(stream.clone(), version);
                facts.fresh.insert(stream);
            }
        }
        for ((tenant, command), receipt) in found.receipts {
            if let Some(facts) = facts.get_mut(&tenant) {
                facts.receipts.insert(command, receipt);
            }
        }
        for ((tenant, key), holder) in found.holders {
            if let Some(facts) = facts.get_mut(&tenant) {
                facts.holders.insert(key, holder);
            }
        }
        facts
    }

    /// Answers the callers and puts back what must go again.
    fn settle(
        &mut self,
        batch: Vec<Pending>,
        plan: Plan,
        winners: &HashSet<TenantId>,
        broken: &HashSet<TenantId>,
    ) {
        let lost: Vec<TenantId> =
            plan.moves.keys().copied().filter(|tenant| !winners.contains(tenant)).collect();
        metrics::counter!("append_swaps_lost_total").increment(lost.len() as u64);
        self.forget(lost);
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
                Decision::Answer { result, after_writes }
                    if !broken.contains(&tenant) && (won || !after_writes) =>
                {
                    answer(pending, result);
                }
                Decision::Refresh => {
                    self.cache.pop(&tenant);
                    pending.tries += 1;
                    again.push(pending);
                }
                Decision::Defer | Decision::Write(_) | Decision::Answer { .. } => {
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
        metrics::counter!("append_flushes_split_total").increment(1);
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
        for mut pending in batch {
            match classify(&error) {
                Refusal::LookAgain => {
                    pending.tries += 8;
                    self.put_back(vec![pending]);
                }
                Refusal::Final(refusal) | Refusal::Unavailable(refusal) => answer(pending, Err(refusal)),
            }
        }
    }

    async fn flush_alone(&mut self, batch: Vec<Pending>) {
        self.launch(batch).await;
        while !self.flights.is_empty() {
            self.land_next().await;
        }
    }

    /// The connection broke around the commit: waits until the old transaction is over, then looks whether it happened.
    async fn pursue(
        &mut self,
        batch: Vec<Pending>,
        plan: Plan,
        error: tokio_postgres::Error,
        broken: &HashSet<TenantId>,
    ) {
        tracing::warn!(
            error = crate::error::describe(&error),
            "the outcome of a flush is unknown; looking it up"
        );
        self.connections = None;
        let deadline = tokio::time::Instant::now() + PURSUIT;
        let mut pause = Duration::from_millis(20);
        loop {
            match self.find_winners(&plan).await {
                Ok(winners) => return self.settle(batch, plan, &winners, broken),
                Err(error) if tokio::time::Instant::now() > deadline => {
                    self.cache.clear();
                    self.forget(plan.moves.keys().copied().collect());
                    return refuse_all(batch, &error);
                }
                Err(_) => {
                    self.connections = None;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(500));
                }
            }
        }
    }

    async fn find_winners(&mut self, plan: &Plan) -> Result<HashSet<TenantId>, StoreError> {
        self.connect().await?;
        let (writer, lookup) = self.connections.as_ref().expect("just connected");
        let mut winners = HashSet::new();
        for tenant in plan.moves.keys() {
            writer.settle(*tenant).await?;
            let row = plan.rows.iter().find(|row| row.tenant == *tenant).expect("a moved tenant has rows");
            if lookup.holds(*tenant, row.position, row.event_id).await? {
                winners.insert(*tenant);
            }
        }
        Ok(winners)
    }

    async fn connect(&mut self) -> Result<(), StoreError> {
        if let Some((writer, lookup)) = &self.connections
            && !writer.is_closed()
            && !lookup.is_closed()
        {
            return Ok(());
        }
        self.connections = None;
        // Whatever was remembered may be of another server by now.
        self.cache.clear();
        let writer = Writer::prepare(connect(&self.config, Role::Appender, APPENDER_OPTIONS).await?).await?;
        let lookup = Lookup::prepare(connect(&self.config, Role::Lookup, LOOKUP_OPTIONS).await?).await?;
        self.admit(&lookup).await?;
        self.connections = Some((Arc::new(writer), lookup));
        Ok(())
    }

    /// Another life of the database may be an earlier state of it: nothing is appended before that is known.
    async fn admit(&mut self, lookup: &Lookup) -> Result<(), StoreError> {
        let incarnation = self.gate.admit_append(lookup.client()).await?;
        if self.incarnation.as_ref() != Some(&incarnation) {
            let committed = self.committed.iter().map(|(tenant, (log, position))| (*tenant, *log, *position));
            replace_where_lost(&self.config, &self.signals, lookup.client(), committed).await?;
            self.incarnation = Some(incarnation);
        }
        Ok(())
    }
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
