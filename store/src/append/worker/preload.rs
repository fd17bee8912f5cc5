//! Loads the planner's input for a flush: from caches, and from look-ups in one round trip.
//! Heads of contended tenants are locked first.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use schemas::engine::TenantId;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::super::lookup::{Lookup, LookupKeys, LookupResult};
use super::super::pending::{EVENT_ID_KIND, PendingAppend};
use super::super::plan::{HeadView, TenantView};
use super::super::write::Writer;
use super::{AppendWorker, TenantCache, VERSION_CACHE_CAPACITY, bounded};
use crate::StoreError;
use crate::database_instance::DatabaseInstance;
use crate::logs::regression::{SeenPositions, replace_regressed_logs};
use crate::pools::DatabaseRole;

/// Options for statements over arrays. Generic plans: the plan never depends on the values.
/// The other settings avoid a bad plan that was made while a table was empty.
const APPENDER_OPTIONS: &str =
    "-c statement_timeout=3s -c plan_cache_mode=force_generic_plan -c synchronous_commit=on";
const LOOKUP_OPTIONS: &str = "-c statement_timeout=3s -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_mergejoin=off -c enable_hashjoin=off";

/// The reason why a flush cannot be planned.
pub(super) enum PreloadError {
    /// Another process holds the lock of a head for longer than the lock timeout.
    HeadLocked,
    Failed(StoreError),
}

impl<E: Into<StoreError>> From<E> for PreloadError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl AppendWorker {
    /// Loads the planner's input, and locks the heads if `locked`.
    /// A failure closes the connection for new flushes; flushes in flight keep theirs.
    pub(super) async fn preload(
        &mut self,
        batch: &[PendingAppend],
        locked: bool,
    ) -> Result<HashMap<TenantId, TenantView>, PreloadError> {
        let preloading = async {
            if locked {
                self.lock_heads(batch).await?;
            }
            Ok(self.load_views(batch).await?)
        };
        let preloaded = preloading.await;
        if matches!(preloaded, Err(PreloadError::Failed(_))) {
            self.connections = None;
        }
        preloaded
    }

    /// Begins a transaction that locks the heads of a batch.
    /// A head with the cached fence shows that no other process wrote, so the tenant is no longer contended.
    async fn lock_heads(&mut self, batch: &[PendingAppend]) -> Result<(), PreloadError> {
        self.connect().await?;
        let (writer, _) = self.connections.as_ref().expect("just connected");
        let tenants: BTreeSet<TenantId> = batch.iter().map(|pending| pending.tenant).collect();
        let ids: Vec<Uuid> = tenants.iter().map(|tenant| tenant.0).collect();
        let heads = match bounded(writer.lock_heads(&ids)).await? {
            Ok(heads) => heads,
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                bounded(writer.rollback()).await??;
                return Err(PreloadError::HeadLocked);
            }
            Err(error) => return Err(error.into()),
        };
        for (tenant, head) in heads {
            match self.cache.get(&tenant) {
                Some(cache) if cache.head.fence == head.fence => drop(self.contended.remove(&tenant)),
                _ => self.cache_head(tenant, head),
            }
        }
        Ok(())
    }

    fn cache_head(&mut self, tenant: TenantId, head: HeadView) {
        let versions =
            LruCache::new(NonZeroUsize::new(VERSION_CACHE_CAPACITY).expect("the capacity is positive"));
        self.cache.put(tenant, TenantCache { head, versions });
    }

    /// Loads the views from the caches, and looks up the missing keys in one round trip.
    async fn load_views(
        &mut self,
        batch: &[PendingAppend],
    ) -> Result<HashMap<TenantId, TenantView>, StoreError> {
        // Connect first: a new connection clears the caches, and the caches decide what to look up.
        self.connect().await?;
        let mut keys = LookupKeys::default();
        for pending in batch {
            let tenant = pending.tenant;
            let cached = self.cache.get(&tenant);
            if cached.is_none() {
                keys.heads.insert(tenant);
            }
            // Look-ups do not see flushes in flight.
            let needs_lookup = pending.needs_version_lookup
                && !self.in_flight.iter().any(|flush| flush.tenants.contains(&tenant));
            if needs_lookup || !cached.is_some_and(|cache| cache.versions.contains(&pending.append.stream)) {
                keys.versions.insert((tenant, pending.append.stream.clone()));
            }
            if let Some(claim) = &pending.append.claim {
                keys.receipts.extend(claim.keys().map(|key| (tenant, key)));
            }
            let event_ids = pending.event_ids.iter().map(|(_, digest)| (tenant, (EVENT_ID_KIND, *digest)));
            keys.reservations.extend(event_ids);
            for reservation in &pending.append.reservations {
                let digest = self.key.reservation_digest(tenant, reservation.kind, &reservation.value);
                keys.reservations.insert((tenant, (reservation.kind, digest)));
            }
        }
        let mut lookup_result = LookupResult::default();
        if !keys.is_empty() {
            let (_, lookup) = self.connections.as_ref().expect("just connected");
            lookup_result = bounded(lookup.look_up(&keys)).await??;
        }
        for (tenant, head) in lookup_result.heads.drain() {
            self.cache_head(tenant, head);
        }
        Ok(self.build_views(batch, lookup_result))
    }

    fn build_views(
        &mut self,
        batch: &[PendingAppend],
        lookup_result: LookupResult,
    ) -> HashMap<TenantId, TenantView> {
        let mut views: HashMap<TenantId, TenantView> = HashMap::new();
        for pending in batch {
            let Some(cache) = self.cache.get_mut(&pending.tenant) else { continue };
            let views = views.entry(pending.tenant).or_insert_with(|| TenantView {
                head: cache.head.clone(),
                versions: HashMap::new(),
                fresh: HashSet::new(),
                receipts: HashMap::new(),
                holders: HashMap::new(),
            });
            if let Some(version) = cache.versions.get(&pending.append.stream) {
                views.versions.insert(pending.append.stream.clone(), *version);
            }
        }
        for ((tenant, stream), version) in lookup_result.versions {
            if let Some(views) = views.get_mut(&tenant) {
                views.versions.insert(stream.clone(), version);
                views.fresh.insert(stream);
            }
        }
        for ((tenant, command), receipt) in lookup_result.receipts {
            if let Some(views) = views.get_mut(&tenant) {
                views.receipts.insert(command, receipt);
            }
        }
        for ((tenant, key), holder) in lookup_result.holders {
            if let Some(views) = views.get_mut(&tenant) {
                views.holders.insert(key, holder);
            }
        }
        views
    }

    pub(super) async fn connect(&mut self) -> Result<(), StoreError> {
        if let Some((writer, lookup)) = &self.connections
            && !writer.is_closed()
            && !lookup.is_closed()
        {
            return Ok(());
        }
        self.connections = None;
        // The cached state may be of another server.
        self.cache.clear();
        let logins = &self.logins;
        let connecting = async {
            let appender = logins.of(DatabaseRole::Appender).with_options(APPENDER_OPTIONS).connect().await?;
            let writer = Writer::prepare(appender).await?;
            let lookup = logins.of(DatabaseRole::Lookup).with_options(LOOKUP_OPTIONS).connect().await?;
            let lookup = Lookup::prepare(lookup).await?;
            Ok::<_, StoreError>((Arc::new(writer), lookup))
        };
        let (writer, lookup) = bounded(connecting).await??;
        bounded(self.check_database_instance(&lookup)).await??;
        self.connections = Some((writer, lookup));
        self.resolution_deadline = None;
        Ok(())
    }

    /// A new database instance may be an older state of the database (a restore). No append runs before this check.
    async fn check_database_instance(&mut self, lookup: &Lookup) -> Result<(), StoreError> {
        let row = lookup.client().query_one(DatabaseInstance::QUERY, &[]).await?;
        let database_instance = self.restore_guard.check_append(DatabaseInstance::from_row(&row)).await?;
        if self.database_instance.as_ref() != Some(&database_instance) {
            let committed = self.committed.iter().map(|(tenant, (log, position))| (*tenant, *log, *position));
            let seen = SeenPositions::new(committed);
            let behind = lookup.client().query(SeenPositions::REGRESSED_HEADS, &seen.parameters()).await?;
            replace_regressed_logs(&self.logins, &self.signals, &self.event_ids, &behind).await?;
            self.database_instance = Some(database_instance);
        }
        Ok(())
    }
}
