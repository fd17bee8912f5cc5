//! The tenant handle: everything of one tenant is reached through it, so a query without a tenant cannot be written.
//!
//! Row-level security stands below it: each transaction carries the tenant as a transaction-local setting, and the
//! runtime roles see nothing without one.
//!
//! ```compile_fail
//! # async fn example(store: store::Store) {
//! // There is no way from the store to rows but through a tenant.
//! store.begin().await.expect("does not compile");
//! # }
//! ```
//!
//! ```no_run
//! # async fn example(store: store::Store, tenant: schemas::engine::TenantId) {
//! store.tenant(tenant).begin().await.expect("compiles");
//! # }
//! ```

use bytes::Bytes;
use database::PooledConnection;
use schemas::engine::{StreamName, TenantId};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::append::AppendError;
use crate::pools::FairPool;
use crate::{DeploymentKey, Head, Receipt, ReservationDigest, Store, StoreError, StreamAppend};

/// The handle of one tenant. Cheap to clone.
#[derive(Clone)]
pub struct TenantStore {
    store: Store,
    id: TenantId,
}

impl TenantStore {
    pub(crate) fn new(store: Store, id: TenantId) -> Self {
        Self { store, id }
    }

    /// Whose handle it is.
    pub fn id(&self) -> TenantId {
        self.id
    }

    /// The store that it belongs to.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Appends events to one stream, with everything that goes with them, or refuses all of it. Returns when the events
    /// are on disk. Dropping the future does not take an append back.
    ///
    /// Personal data that the payloads hold open is sealed first; none ever reaches the log in clear.
    pub async fn append(&self, append: StreamAppend) -> Result<Receipt, AppendError> {
        let appender = &self.store.0.appender;
        let event_ids: Vec<Uuid> = append.events.iter().filter_map(|event| event.event_id).collect();
        if let Some(taken) = appender.first_unavailable(self.id, &event_ids) {
            return Err(AppendError::EventIdTaken(taken));
        }
        let append = self.seal(append).await?;
        appender.append(self.id, append, &event_ids).await
    }

    /// Appends to several streams; each succeeds or fails by itself. They share flushes where they can.
    pub async fn append_all(&self, appends: Vec<StreamAppend>) -> Vec<Result<Receipt, AppendError>> {
        futures::future::join_all(appends.into_iter().map(|append| self.append(append))).await
    }

    /// The end of the log.
    pub async fn head(&self) -> Result<Head, StoreError> {
        let transaction = self.begin().await?;
        let head = transaction.head().await?;
        transaction.commit().await?;
        Ok(head)
    }

    /// The stream that holds a value, given in its normalised form.
    pub async fn reserved_by(&self, kind: &str, normalised: &str) -> Result<Option<StreamName>, StoreError> {
        let digest = reservation_digest(self.store.key(), self.id, kind, normalised);
        let transaction = self.begin().await?;
        let row = transaction
            .query_opt(
                "select stream from reservations where tenant_id = $1 and kind = $2 and value_hash = $3",
                &[&self.id.0, &kind, &digest.as_slice()],
            )
            .await?;
        transaction.commit().await?;
        row.map(|row| Ok(StreamName::parse(row.get(0))?)).transpose()
    }

    /// What a stream holds of a sort. For the erasure of a person, so it looks at all that the tenant holds of that sort.
    pub async fn reservations_of(
        &self,
        stream: &StreamName,
        kind: &'static str,
    ) -> Result<Vec<ReservationDigest>, StoreError> {
        let transaction = self.begin().await?;
        let rows = transaction
            .query(
                "select value_hash from reservations where tenant_id = $1 and kind = $2 and stream = $3",
                &[&self.id.0, &kind, &stream.as_str()],
            )
            .await?;
        transaction.commit().await?;
        let digest_from = |row: &Row| {
            let digest = row.get::<_, &[u8]>(0).try_into();
            digest
                .map(|digest| ReservationDigest { kind, digest })
                .map_err(|error| StoreError::corrupt("a reservation", error))
        };
        rows.iter().map(digest_from).collect()
    }

    /// A secret of a stream.
    pub async fn secret(&self, stream: &StreamName, kind: &str) -> Result<Option<Bytes>, StoreError> {
        let transaction = self.begin().await?;
        let row = transaction
            .query_opt(
                "select value from secrets where tenant_id = $1 and stream = $2 and kind = $3",
                &[&self.id.0, &stream.as_str(), &kind],
            )
            .await?;
        transaction.commit().await?;
        Ok(row.map(|row| Bytes::from(row.get::<_, Vec<u8>>(0))))
    }

    /// A transaction that reads this tenant's rows and writes none.
    pub async fn begin(&self) -> Result<TenantTransaction, StoreError> {
        TenantTransaction::begin(&self.store.0.pools.tenant, self.id).await
    }

    /// A transaction that reads this tenant's rows as they are at one instant, however many statements it takes.
    pub async fn begin_snapshot(&self) -> Result<TenantTransaction, StoreError> {
        TenantTransaction::begin_at(&self.store.0.pools.tenant, self.id, "repeatable read").await
    }

    /// A transaction that keeps what follows from this tenant's log (read models, checkpoints, saga steps, dead letters),
    /// and its webhooks.
    pub async fn begin_worker_transaction(&self) -> Result<TenantTransaction, StoreError> {
        TenantTransaction::begin(&self.store.0.pools.projector, self.id).await
    }
}

/// A transaction that carries its tenant. Dropped without a commit it cancels the statement that it runs and is rolled back.
/// Its connection is given back only when that has succeeded, and the tenant goes with the transaction.
pub struct TenantTransaction {
    tenant: TenantId,
    connection: PooledConnection,
}

impl TenantTransaction {
    pub(crate) async fn begin(pool: &FairPool, tenant: TenantId) -> Result<Self, StoreError> {
        Self::begin_at(pool, tenant, "read committed").await
    }

    pub(crate) async fn begin_at(pool: &FairPool, tenant: TenantId, level: &str) -> Result<Self, StoreError> {
        let connection = pool.get(tenant).await?;
        let begin =
            format!("begin isolation level {level}; select set_config('annals.tenant', '{tenant}', true)");
        connection.begin(&begin).await?;
        Ok(Self { tenant, connection })
    }

    pub(crate) fn connection(&self) -> &PooledConnection {
        &self.connection
    }

    /// Whose transaction it is.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// The end of the log as this transaction sees it.
    pub async fn head(&self) -> Result<Head, StoreError> {
        let statement = format!("select {} from heads where tenant_id = $1", crate::heads::COLUMNS);
        let row = self.query_opt(&statement, &[&self.tenant.0]).await?;
        row.as_ref().map(crate::heads::head_from).ok_or(StoreError::TenantUnknown)
    }

    /// All rows of a statement. Statements are prepared once a connection, so their texts must be few.
    pub async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, StoreError> {
        Ok(self.connection.query(sql, parameters).await?)
    }

    /// The row of a statement that finds one at most.
    pub async fn query_opt(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.connection.query_opt(sql, parameters).await?)
    }

    /// Runs a statement and returns how many rows it touched.
    pub async fn execute(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64, StoreError> {
        Ok(self.connection.execute(sql, parameters).await?)
    }

    /// Makes it last and gives the connection back.
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.connection.commit().await?)
    }
}

/// The keyed digest under which a value is reserved: the table tells nothing of the value.
pub(crate) fn reservation_digest(key: &DeploymentKey, tenant: TenantId, kind: &str, value: &str) -> [u8; 32] {
    key.mac("reservation", &[tenant.0.as_bytes(), kind.as_bytes(), value.as_bytes()])
}
