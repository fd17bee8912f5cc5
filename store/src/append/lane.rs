//! A lane: one append connection, the caches of the tenants it writes, and the loop that gathers, plans and writes
//! flushes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use schemas::engine::{StreamName, TenantId, clock};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use super::lookup::{Found, Lookup, Wanted};
use super::outcome::{Refusal, classify};
use super::plan::{Decision, HeadView, Plan, TenantFacts, plan};
use super::queue::Pending;
use super::write::{Writer, Written};
use super::{AppendError, Receipt};
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

struct TenantCache {
    head: HeadView,
    versions: LruCache<StreamName, u64>,
}

pub(super) struct Lane {
    config: StoreConfig,
    signals: Arc<Signals>,
    receiver: UnboundedReceiver<Pending>,
    waiting: VecDeque<Pending>,
    cache: LruCache<TenantId, TenantCache>,
    connections: Option<(Writer, Lookup)>,
}

impl Lane {
    pub(super) fn new(
        config: StoreConfig,
        signals: Arc<Signals>,
        receiver: UnboundedReceiver<Pending>,
    ) -> Self {
        let capacity = NonZeroUsize::new(TENANTS).expect("the capacity is positive");
        Self {
            config,
            signals,
            receiver,
            waiting: VecDeque::new(),
            cache: LruCache::new(capacity),
            connections: None,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            if self.waiting.is_empty() {
                tokio::select! {
                    biased;
                    pending = self.receiver.recv() => match pending {
                        Some(pending) => self.waiting.push_back(pending),
                        None => return,
                    },
                    () = stop.cancelled() => {
                        self.receiver.close();
                        match self.receiver.recv().await {
                            Some(pending) => self.waiting.push_back(pending),
                            None => return,
                        }
                    }
                }
            }
            while let Ok(pending) = self.receiver.try_recv() {
                self.waiting.push_back(pending);
            }
            let batch = self.gather();
            self.flush(batch).await;
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

    /// Settles a batch, whatever it takes: what must go again is put back in front of the queue.
    async fn flush(&mut self, batch: Vec<Pending>) {
        let batch: Vec<Pending> = batch.into_iter().filter(|pending| !pending.reply.is_closed()).collect();
        if batch.is_empty() {
            return;
        }
        let facts = match self.gather_facts(&batch).await {
            Ok(facts) => facts,
            Err(error) => {
                self.connections = None;
                refuse_all(batch, &error);
                return;
            }
        };
        let key = self.config.key.clone();
        let digest = move |tenant: TenantId, kind: &'static str, value: &str| {
            crate::tenant::reservation_digest(&key, tenant, kind, value)
        };
        let plan = plan(&batch, &facts, clock::now(), &digest);
        if plan.moves.is_empty() {
            self.settle(batch, plan, &HashSet::new());
            return;
        }
        let Some((writer, _)) = &self.connections else {
            refuse_all(batch, &StoreError::Unavailable("no connection".to_owned()));
            return;
        };
        metrics::histogram!("append_flush_events").record(plan.rows.len() as f64);
        match writer.write(&batch, &plan).await {
            Written::Committed(winners) => self.settle(batch, plan, &winners),
            Written::Refused(error) => self.split(batch, error).await,
            Written::Unknown(error) => self.pursue(batch, plan, error).await,
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

    /// Answers the callers, remembers what was written, and puts back what must go again.
    fn settle(&mut self, batch: Vec<Pending>, plan: Plan, winners: &HashSet<TenantId>) {
        for (tenant, (_, after)) in &plan.moves {
            if winners.contains(tenant) {
                if let Some(cache) = self.cache.get_mut(tenant) {
                    cache.head = after.clone();
                }
            } else {
                metrics::counter!("append_swaps_lost_total").increment(1);
                self.cache.pop(tenant);
            }
        }
        let mut again = Vec::new();
        let mut moved: HashMap<TenantId, u64> = HashMap::new();
        for (mut pending, decision) in batch.into_iter().zip(plan.decisions) {
            let tenant = pending.tenant;
            let won = winners.contains(&tenant);
            match decision {
                Decision::Write(receipt) if won => {
                    if let Some(cache) = self.cache.get_mut(&tenant) {
                        cache.versions.put(receipt.stream.clone(), receipt.version);
                    }
                    moved.insert(tenant, receipt.position);
                    answer(pending, Ok(receipt));
                }
                Decision::Answer { result, after_writes } if won || !after_writes => answer(pending, result),
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
            Box::pin(self.flush(batch)).await;
            Box::pin(self.flush(back)).await;
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

    /// The connection broke around the commit: waits until the old transaction is over, then looks whether it happened.
    async fn pursue(&mut self, batch: Vec<Pending>, plan: Plan, error: tokio_postgres::Error) {
        tracing::warn!(
            error = crate::error::describe(&error),
            "the outcome of a flush is unknown; looking it up"
        );
        self.connections = None;
        let deadline = tokio::time::Instant::now() + PURSUIT;
        let mut pause = Duration::from_millis(20);
        loop {
            match self.find_winners(&plan).await {
                Ok(winners) => return self.settle(batch, plan, &winners),
                Err(error) if tokio::time::Instant::now() > deadline => {
                    self.cache.clear();
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
        self.connections = Some((writer, lookup));
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
