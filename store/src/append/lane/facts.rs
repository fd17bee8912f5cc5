//! What a lane learns before it plans a flush: from its caches, from one volley of look-ups, and with locks where another
//! process writes to the same tenants.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use schemas::engine::TenantId;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::super::lookup::{Found, Lookup, Wanted};
use super::super::plan::{EVENT_ID, HeadView, TenantFacts};
use super::super::queue::Pending;
use super::super::write::Writer;
use super::{Lane, TenantCache, VERSIONS, bounded};
use crate::StoreError;
use crate::incarnation::Incarnation;
use crate::logs::{Seen, replace_where_lost};
use crate::pools::Role;

/// Tuned for statements over arrays: their plans never depend on the values, and an empty table at the first plan must
/// not fix a bad one.
const APPENDER_OPTIONS: &str =
    "-c statement_timeout=3s -c plan_cache_mode=force_generic_plan -c synchronous_commit=on";
const LOOKUP_OPTIONS: &str = "-c statement_timeout=3s -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_mergejoin=off -c enable_hashjoin=off";

/// Why a flush cannot be planned.
pub(super) enum LearnError {
    /// Another process holds one for longer than anybody should.
    Held,
    Failed(StoreError),
}

impl<E: Into<StoreError>> From<E> for LearnError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Lane {
    /// What the planner needs, and the locks where the tenants are contended. A connection on which that failed is given up;
    /// flushes under way keep theirs.
    pub(super) async fn learn(
        &mut self,
        batch: &[Pending],
        locked: bool,
    ) -> Result<HashMap<TenantId, TenantFacts>, LearnError> {
        let learning = async {
            if locked {
                self.lock_heads(batch).await?;
            }
            Ok(self.gather_facts(batch).await?)
        };
        let learned = learning.await;
        if matches!(learned, Err(LearnError::Failed(_))) {
            self.connections = None;
        }
        learned
    }

    /// Begins a transaction that holds the heads of a batch. Whoever finds a head where this lane left it has it alone.
    async fn lock_heads(&mut self, batch: &[Pending]) -> Result<(), LearnError> {
        self.connect().await?;
        let (writer, _) = self.connections.as_ref().expect("just connected");
        let tenants: BTreeSet<TenantId> = batch.iter().map(|pending| pending.tenant).collect();
        let ids: Vec<Uuid> = tenants.iter().map(|tenant| tenant.0).collect();
        let heads = match bounded(writer.lock_heads(&ids)).await? {
            Ok(heads) => heads,
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                bounded(writer.let_go()).await??;
                return Err(LearnError::Held);
            }
            Err(error) => return Err(error.into()),
        };
        for (tenant, head) in heads {
            match self.cache.get(&tenant) {
                Some(cache) if cache.head.fence == head.fence => drop(self.contended.remove(&tenant)),
                _ => self.remember(tenant, head),
            }
        }
        Ok(())
    }

    fn remember(&mut self, tenant: TenantId, head: HeadView) {
        let versions = LruCache::new(NonZeroUsize::new(VERSIONS).expect("the capacity is positive"));
        self.cache.put(tenant, TenantCache { head, versions });
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
            // A look-up cannot see what is under way.
            let doubtful =
                pending.in_doubt && !self.flights.iter().any(|flight| flight.tenants.contains(&tenant));
            if doubtful || !cached.is_some_and(|cache| cache.versions.contains(&pending.append.stream)) {
                wanted.versions.insert((tenant, pending.append.stream.clone()));
            }
            if let Some(claim) = &pending.append.claim {
                wanted.receipts.extend(claim.keys().map(|key| (tenant, key)));
            }
            let event_ids = pending.event_ids.iter().map(|(_, digest)| (tenant, (EVENT_ID, *digest)));
            wanted.reservations.extend(event_ids);
            for reservation in &pending.append.reservations {
                let digest = crate::tenant::reservation_digest(
                    &self.key,
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
            found = bounded(lookup.look_up(&wanted)).await??;
        }
        for (tenant, head) in found.heads.drain() {
            self.remember(tenant, head);
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

    pub(super) async fn connect(&mut self) -> Result<(), StoreError> {
        if let Some((writer, lookup)) = &self.connections
            && !writer.is_closed()
            && !lookup.is_closed()
        {
            return Ok(());
        }
        self.connections = None;
        // Whatever was remembered may be of another server by now.
        self.cache.clear();
        let logins = &self.logins;
        let connecting = async {
            let appender = logins.of(Role::Appender).with_options(APPENDER_OPTIONS).connect().await?;
            let writer = Writer::prepare(appender).await?;
            let lookup = logins.of(Role::Lookup).with_options(LOOKUP_OPTIONS).connect().await?;
            let lookup = Lookup::prepare(lookup).await?;
            Ok::<_, StoreError>((Arc::new(writer), lookup))
        };
        let (writer, lookup) = bounded(connecting).await??;
        bounded(self.admit(&lookup)).await??;
        self.connections = Some((writer, lookup));
        self.pursuit = None;
        Ok(())
    }

    /// Another life of the database may be an earlier state of it: nothing is appended before that is known.
    async fn admit(&mut self, lookup: &Lookup) -> Result<(), StoreError> {
        let row = lookup.client().query_one(Incarnation::STATEMENT, &[]).await?;
        let incarnation = self.gate.admit_append(Incarnation::from_row(&row)).await?;
        if self.incarnation.as_ref() != Some(&incarnation) {
            let committed = self.committed.iter().map(|(tenant, (log, position))| (*tenant, *log, *position));
            let seen = Seen::new(committed);
            let behind = lookup.client().query(Seen::HEADS_BEHIND, &seen.parameters()).await?;
            replace_where_lost(&self.logins, &self.signals, &self.event_ids, &behind).await?;
            self.incarnation = Some(incarnation);
        }
        Ok(())
    }
}
