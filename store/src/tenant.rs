//! The tenant handle: the only way to the rows of a tenant, so a query without a tenant cannot be written.
//!
//! Row-level security is a second check: each transaction sets its tenant.
//! Without that setting the runtime roles see no rows.
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
use database::{RawRow, Value};
use schemas::engine::{StreamName, TenantId};
use uuid::Uuid;

use crate::append::AppendError;
use crate::heads::{HEAD, field, head_in};
use crate::transaction::TenantTransaction;
use crate::{Head, Invariant, Receipt, ReservationDigest, Store, StoreError, StreamAppend};

/// The handle of one tenant. Cheap to clone.
#[derive(Clone)]
pub struct TenantStore {
    store: Store,
    id: TenantId,
}

impl Store {
    /// The handle of one tenant: the only way to its rows. It does not check whether the tenant exists.
    pub fn tenant(&self, id: TenantId) -> TenantStore {
        TenantStore { store: self.clone(), id }
    }
}

impl TenantStore {
    /// The id of the tenant.
    pub fn id(&self) -> TenantId {
        self.id
    }

    /// Reports a violation at a position of the log, and returns it as an error.
    pub fn violation(&self, invariant: Invariant, position: u64) -> StoreError {
        self.store.violation(self.id, invariant, position)
    }

    /// The store of the handle.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Appends events to one stream, with the rows that belong to them. Either everything commits or nothing.
    ///
    /// Returns after the commit is on disk. Dropping the future does not cancel the append.
    /// Open personal data in the payloads is encrypted first; the log never contains it in clear text.
    ///
    /// # Errors
    /// [`AppendError::VersionConflict`] when the stream has another version,
    /// [`AppendError::Reserved`] when another stream holds a value,
    /// [`AppendError::Overloaded`] when the queue is full.
    /// After [`AppendError::Unavailable`] it may have committed; a repeat with the same idempotency key is safe.
    pub async fn append(&self, append: StreamAppend) -> Result<Receipt, AppendError> {
        let appender = &self.store.0.appender;
        let event_ids: Vec<Uuid> = append.events.iter().filter_map(|event| event.event_id).collect();
        if let Some(taken) = appender.first_unavailable(self.id, &event_ids) {
            return Err(AppendError::EventIdTaken(taken));
        }
        let append = self.seal(append).await?;
        let appended = appender.append(self.id, append, &event_ids).await;
        if let Err(AppendError::Unavailable(StoreError::InvariantViolated { invariant, position })) = appended
        {
            return Err(self.violation(invariant, position).into());
        }
        appended
    }

    /// Appends to several streams. Each append succeeds or fails alone; they share flushes where possible.
    pub async fn append_all(&self, appends: Vec<StreamAppend>) -> Vec<Result<Receipt, AppendError>> {
        futures::future::join_all(appends.into_iter().map(|append| self.append(append))).await
    }

    /// The head of the log.
    ///
    /// # Errors
    /// [`StoreError::TenantUnknown`] when the tenant does not exist.
    pub async fn head(&self) -> Result<Head, StoreError> {
        let rows = self.read_one(HEAD, &[Value::Uuid(self.id.0)]).await?;
        head_in(self.id, &rows)
    }

    /// The stream that holds a reserved value. `normalised` is the value in its normalised form.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    /// [`StoreError::Corrupt`] when a stored stream name is invalid.
    pub async fn reserved_by(&self, kind: &str, normalised: &str) -> Result<Option<StreamName>, StoreError> {
        let digest = self.store.key().reservation_digest(self.id, kind, normalised);
        let sql = "select stream from reservations where tenant_id = $1 and kind = $2 and value_hash = $3";
        let rows =
            self.read_one(sql, &[Value::Uuid(self.id.0), Value::Text(kind), Value::Bytea(&digest)]).await?;
        rows.iter().next().map(|row| Ok(StreamName::parse(field(row, 0)?)?)).transpose()
    }

    /// The values of one kind that a stream holds, as digests. It scans all values of that kind of the tenant.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    /// [`StoreError::Corrupt`] when a stored digest has not 32 bytes.
    pub async fn reservations_of(
        &self,
        stream: &StreamName,
        kind: &'static str,
    ) -> Result<Vec<ReservationDigest>, StoreError> {
        let sql = "select value_hash from reservations where tenant_id = $1 and kind = $2 and stream = $3";
        let values = [Value::Uuid(self.id.0), Value::Text(kind), Value::Text(stream.as_str())];
        let rows = self.read_one(sql, &values).await?;
        let digest_from = |row: RawRow<'_>| {
            let digest = field::<&[u8]>(row, 0)?.try_into();
            digest
                .map(|digest| ReservationDigest { kind, digest })
                .map_err(|error| StoreError::corrupt("a reservation", error))
        };
        rows.iter().map(digest_from).collect()
    }

    /// A secret of a stream, or `None` if the stream has none of this kind.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn secret(&self, stream: &StreamName, kind: &str) -> Result<Option<Bytes>, StoreError> {
        let sql = "select value from secrets where tenant_id = $1 and stream = $2 and kind = $3";
        let values = [Value::Uuid(self.id.0), Value::Text(stream.as_str()), Value::Text(kind)];
        let rows = self.read_one(sql, &values).await?;
        rows.iter().next().map(|row| Ok(Bytes::copy_from_slice(field(row, 0)?))).transpose()
    }

    /// Begins a read-only transaction on the rows of this tenant.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] when too many transactions wait for a connection.
    pub async fn begin(&self) -> Result<TenantTransaction, StoreError> {
        TenantTransaction::begin(&self.store.0.pools.tenant, self.id).await
    }

    /// Begins a read-only transaction with one snapshot for all its statements (`repeatable read`).
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] when too many transactions wait for a connection.
    /// [`StoreError`] when the database does not answer.
    pub async fn begin_snapshot(&self) -> Result<TenantTransaction, StoreError> {
        TenantTransaction::begin_at(&self.store.0.pools.tenant, self.id, "repeatable read").await
    }

    /// Begins a transaction that can write the rows derived from the log, and the webhooks of the tenant.
    /// Derived rows are read models, checkpoints, saga steps and dead letters.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] when too many transactions wait for a connection.
    /// [`StoreError`] when the database does not answer.
    pub async fn begin_worker_transaction(&self) -> Result<TenantTransaction, StoreError> {
        TenantTransaction::begin(&self.store.0.pools.projector, self.id).await
    }
}
