//! The store of the product: cheap to clone, and the source of tenant handles.

use std::sync::Arc;
use std::time::Duration;

use keyring::Keyring;
use moka::future::Cache;
use schemas::engine::{TenantId, TenantSlug};
use tokio::sync::{Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::advances::Advances;
use crate::append::Appender;
use crate::assignment::{TenantAssignment, Workload};
use crate::database_instance::RestoreGuard;
use crate::event_ids::EventIds;
use crate::generations::Generations;
use crate::pauses::Pauses;
use crate::pools::{Pools, get};
use crate::receipt_sweep;
use crate::request_locks::RequestLocks;
use crate::signals::{CheckpointMove, Signals};
use crate::tenants::TenantStatus;
use crate::violations::ReportedViolations;
use crate::{DeploymentKey, Head, Invariant, StoreConfig, StoreError, TenantRecord};

/// Maximum age of a cached directory entry. A suspension must take effect within five seconds.
const DIRECTORY_TTL: Duration = Duration::from_secs(4);
const DIRECTORY_CAPACITY: u64 = 10_000;
/// Maximum loads of a process that write their snapshots at the same time. Others write none.
const SNAPSHOT_WRITERS_MAX: usize = 2;

/// Connections of the database server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// Maximum connections for roles that are not superusers.
    pub max: usize,
    /// Open connections of all clients.
    pub open: usize,
    /// Open connections of the product to this database.
    pub by_annals: usize,
}

/// The event store of a deployment.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: StoreConfig,
    pub(crate) restore_guard: Arc<RestoreGuard>,
    pub(crate) key: DeploymentKey,
    pub(crate) pools: Arc<Pools>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) advances: Arc<Advances>,
    pub(crate) generations: Generations,
    pub(crate) pauses: Pauses,
    pub(crate) appender: Appender,
    pub(crate) event_ids: Arc<EventIds>,
    pub(crate) request_locks: Arc<RequestLocks>,
    pub(crate) violations: ReportedViolations,
    assignments: [TenantAssignment; 5],
    by_slug: Cache<TenantSlug, Arc<TenantRecord>>,
    by_id: Cache<TenantId, Arc<TenantRecord>>,
    pub(crate) snapshot_writers: Arc<Semaphore>,
    stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Dropping the last handle stops the background tasks, and so closes their connections.
impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Store {
    /// Connects, and starts the append workers and the notifications.
    ///
    /// # Errors
    /// When the database cannot be reached or is not migrated, or when the keyring belongs to another database.
    pub async fn connect(config: StoreConfig) -> Result<Self, StoreError> {
        let pools = Arc::new(Pools::new(&config)?);
        // One query detects wrong passwords and missing tables before the store is used.
        crate::heads::some(&pools, &[]).await?;
        if let Some(keyring) = &config.keyring {
            crate::deployment::ensure_keys_match(&pools, keyring).await?;
        }
        let signals = Signals::new();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(Arc::clone(&signals).announce(Arc::clone(&pools), stop.clone()));
        tasks.spawn(Arc::clone(&signals).listen(Arc::clone(&pools), stop.clone()));
        let advances = Arc::<Advances>::default();
        let writing =
            Arc::clone(&advances).write_forever(Arc::clone(&pools), Arc::clone(&signals), stop.clone());
        tasks.spawn(writing);
        tasks.close();
        let restore_guard = Arc::new(RestoreGuard::default());
        let event_ids = Arc::new(EventIds::new(&config.key));
        let appender = Appender::start(&config, &pools, &signals, &restore_guard, &event_ids);
        let assignments =
            [Workload::Relay, Workload::Projections, Workload::Sagas, Workload::Sealer, Workload::Webhooks]
                .map(|workload| TenantAssignment::new(workload, Arc::clone(&pools)));
        let inner = Arc::new(Inner {
            key: config.key.clone(),
            config,
            restore_guard,
            pools,
            signals,
            advances,
            generations: Generations::default(),
            pauses: Pauses::default(),
            appender,
            event_ids,
            request_locks: Arc::default(),
            violations: ReportedViolations::default(),
            assignments,
            by_slug: Cache::builder().max_capacity(DIRECTORY_CAPACITY).time_to_live(DIRECTORY_TTL).build(),
            by_id: Cache::builder().max_capacity(DIRECTORY_CAPACITY).time_to_live(DIRECTORY_TTL).build(),
            snapshot_writers: Arc::new(Semaphore::new(SNAPSHOT_WRITERS_MAX)),
            stop: stop.clone(),
            tasks: tasks.clone(),
        });
        tasks.spawn(receipt_sweep::sweep(Arc::downgrade(&inner.pools), stop));
        Ok(Self(inner))
    }

    /// The key of the deployment, for digests and tokens.
    pub fn key(&self) -> &DeploymentKey {
        &self.0.key
    }

    /// Reports a violation at a position of the tenant's log, and returns it as an error.
    /// A process reports each invariant once for each tenant.
    pub fn violation(&self, tenant: TenantId, invariant: Invariant, position: u64) -> StoreError {
        self.0.violations.report(tenant, invariant, position)
    }

    /// Marks an unmarked key store as this deployment's, although another one was in use.
    /// Returns `false` when it belongs to another deployment.
    ///
    /// # Errors
    /// [`StoreError`] when the database or the key store does not answer.
    pub async fn adopt_keys(&self, keyring: &Keyring) -> Result<bool, StoreError> {
        crate::deployment::adopt_keys(&self.0.pools, keyring).await
    }

    /// The keys of personal data, if this process has them.
    pub fn keyring(&self) -> Option<&Keyring> {
        self.0.config.keyring.as_ref()
    }

    /// The directory entry of a slug; `None` when no tenant has it. At most five seconds old.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    /// [`StoreError::Corrupt`] when a stored directory entry is invalid.
    pub async fn tenant_by_slug(&self, slug: &TenantSlug) -> Result<Option<Arc<TenantRecord>>, StoreError> {
        if let Some(record) = self.0.by_slug.get(slug).await {
            return Ok(Some(record));
        }
        let record = crate::tenants::by_slug(&self.0.pools, slug).await?;
        Ok(self.cache_record(record).await)
    }

    /// The directory entry of a tenant. At most five seconds old.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    /// [`StoreError::Corrupt`] when a stored directory entry is invalid.
    pub async fn tenant_by_id(&self, id: TenantId) -> Result<Option<Arc<TenantRecord>>, StoreError> {
        if let Some(record) = self.0.by_id.get(&id).await {
            return Ok(Some(record));
        }
        let record = crate::tenants::by_id(&self.0.pools, id).await?;
        Ok(self.cache_record(record).await)
    }

    async fn cache_record(&self, record: Option<TenantRecord>) -> Option<Arc<TenantRecord>> {
        let record = Arc::new(record?);
        self.0.by_slug.insert(record.slug.clone(), Arc::clone(&record)).await;
        self.0.by_id.insert(record.id, Arc::clone(&record)).await;
        Some(record)
    }

    /// A page of the directory in slug order, after `after`.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    /// [`StoreError::Corrupt`] when a stored directory entry is invalid.
    pub async fn tenants(
        &self,
        after: Option<&TenantSlug>,
        limit: u32,
    ) -> Result<Vec<TenantRecord>, StoreError> {
        crate::tenants::page(&self.0.pools, after, limit).await
    }

    /// The current status of these tenants, read by one query.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn tenant_statuses(&self, tenants: &[TenantId]) -> Result<Vec<TenantStatus>, StoreError> {
        let tenants: Vec<_> = tenants.iter().map(|tenant| tenant.0).collect();
        crate::tenants::tenant_statuses(&self.0.pools, &tenants).await
    }

    /// The heads of all tenants.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn heads(&self) -> Result<Vec<Head>, StoreError> {
        crate::heads::all(&self.0.pools).await
    }

    /// The tenants assigned to this process for a workload.
    pub fn tenant_assignment(&self, workload: Workload) -> TenantAssignment {
        self.0.assignments[workload as usize].clone()
    }

    /// Notifications of moved heads, from all processes. A receiver that lags must compare the heads itself.
    pub fn head_moves(&self) -> broadcast::Receiver<TenantId> {
        self.0.signals.head_moves()
    }

    /// Notifies when the head of this tenant moves. The value may be stale: the receiver must read the log.
    pub fn watch_head(&self, tenant: TenantId) -> watch::Receiver<u64> {
        self.0.signals.watch_head(tenant)
    }

    /// Notifications of checkpoints that moved in this process.
    pub fn checkpoint_moves(&self) -> broadcast::Receiver<CheckpointMove> {
        self.0.signals.checkpoint_moves()
    }

    /// Notifies of a moved checkpoint. Consumers call it after their commit.
    pub fn announce_checkpoint(&self, consumer: &str, tenant: TenantId, position: u64) {
        self.0.signals.checkpoint_moved(CheckpointMove { consumer: consumer.into(), tenant, position });
    }

    /// Checks that the database answers and accepts writes.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the server is read-only, such as a standby in recovery.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let statement = "select current_setting('transaction_read_only')::boolean";
        let read_only: bool = get(&self.0.pools.worker).await?.query_one(statement, &[]).await?.get(0);
        if read_only {
            return Err(StoreError::Unavailable("the database takes no writes".to_owned()));
        }
        Ok(())
    }

    /// Counts the connections of the database server, and its limit.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn connections(&self) -> Result<Connections, StoreError> {
        let statement = "select current_setting('max_connections')::int8
                                - current_setting('superuser_reserved_connections')::int8,
                                count(*), count(*) filter (where datname = current_database() and usename like 'annals%')
                         from pg_stat_activity where datname is not null and usename is not null";
        let row = get(&self.0.pools.worker).await?.query_one(statement, &[]).await?;
        let count = |column: usize| row.get::<_, i64>(column) as usize;
        Ok(Connections { max: count(0), open: count(1), by_annals: count(2) })
    }

    /// Stops accepting appends, writes the queued ones, and stops the background tasks.
    pub async fn shutdown(&self) {
        self.0.appender.shutdown().await;
        self.0.stop.cancel();
        self.0.tasks.wait().await;
    }
}
