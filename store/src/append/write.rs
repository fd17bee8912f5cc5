//! Writes a flush: one array statement in one transaction, conditional on the compare-and-swap of the heads.

mod columns;
mod parameters;
mod statements;

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use database::Connection;
use schemas::engine::TenantId;
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use self::columns::Flush;
use self::parameters::FlushStatement;
use self::statements::{
    EVENTS_INSERT, EVENTS_WITH_KEYS_INSERT, HEADS_LOCK, HEADS_SWAP, LOCKING_BEGIN, SIDE_WRITES,
    SINGLE_EVENT_FLUSH, SINGLE_TENANT_FLUSH, SWAPPED_TENANTS,
};
use super::lookup::head_from;
use super::pending::PendingAppend;
use super::plan::{HeadView, Plan};
use crate::StoreError;

/// A connection of the appender role with the prepared write statements.
pub(super) struct Writer {
    client: Client,
    driver: AbortOnDropHandle<()>,
    lock: Statement,
    single_event: FlushStatement,
    single_tenant: FlushStatement,
    events_only: FlushStatement,
    with_side_writes: FlushStatement,
    set_tenants: Statement,
    /// The value of `annals.tenants`: the tenants that the connection may write to, those of the last flush.
    /// A session setting is safe, because only this worker uses the connection.
    tenants: Mutex<String>,
}

/// The outcome of a write.
pub(super) enum WriteResult {
    /// Committed for these tenants. The swap of the others failed, and none of their rows was written.
    Committed(HashSet<TenantId>),
    /// PostgreSQL rejected it and rolled back everything.
    Rejected(tokio_postgres::Error),
    /// The connection broke or timed out: the transaction may have committed or may still commit.
    Unknown(StoreError),
}

impl WriteResult {
    /// An error means a rollback, unless it ended the connection.
    fn failed(error: tokio_postgres::Error) -> Self {
        match error.as_db_error().and_then(DbError::parsed_severity) {
            Some(Severity::Error) => Self::Rejected(error),
            _ => Self::Unknown(error.into()),
        }
    }
}

impl Writer {
    pub(super) async fn prepare(
        Connection { client, driver }: Connection,
    ) -> Result<Self, tokio_postgres::Error> {
        let lock = client.prepare(HEADS_LOCK).await?;
        let single_event = FlushStatement::prepare(&client, SINGLE_EVENT_FLUSH).await?;
        let single_tenant = FlushStatement::prepare(&client, SINGLE_TENANT_FLUSH).await?;
        let events_only = format!("{HEADS_SWAP}{EVENTS_INSERT}{SWAPPED_TENANTS}");
        let events_only = FlushStatement::prepare(&client, &events_only).await?;
        let with_side_writes = format!("{HEADS_SWAP}{EVENTS_WITH_KEYS_INSERT}{SIDE_WRITES}{SWAPPED_TENANTS}");
        let with_side_writes = FlushStatement::prepare(&client, &with_side_writes).await?;
        let set_tenants = client.prepare("select set_config('annals.tenants', $1, false)").await?;
        Ok(Self {
            client,
            driver,
            lock,
            single_event,
            single_tenant,
            events_only,
            with_side_writes,
            set_tenants,
            tenants: Mutex::default(),
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Closes the connection, even with statements in flight.
    pub(super) fn abort(&self) {
        self.driver.abort();
    }

    /// Begins a transaction that locks the heads of these tenants, and returns the heads.
    /// [`write`](Self::write) or [`rollback`](Self::rollback) ends the transaction.
    pub(super) async fn lock_heads(
        &self,
        tenants: &[Uuid],
    ) -> Result<HashMap<TenantId, HeadView>, tokio_postgres::Error> {
        let parameters: [&(dyn ToSql + Sync); 1] = [&tenants];
        let (set, begun, heads) = futures::join!(
            self.set_writable_tenants(tenants),
            self.client.batch_execute(LOCKING_BEGIN),
            self.client.query(&self.lock, &parameters)
        );
        set?;
        begun?;
        Ok(heads?.iter().map(head_from).collect())
    }

    pub(super) async fn rollback(&self) -> Result<(), tokio_postgres::Error> {
        // The rollback also restores the setting `annals.tenants`.
        lock(&self.tenants).clear();
        self.client.batch_execute("rollback").await
    }

    /// Sets the tenants that the connection may write to, if they differ from the last flush.
    async fn set_writable_tenants(&self, tenants: &[Uuid]) -> Result<(), tokio_postgres::Error> {
        let mut tenants = tenants.to_vec();
        tenants.sort_unstable();
        let tenants = tenants.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        if std::mem::replace(&mut *lock(&self.tenants), tenants.clone()) != tenants {
            self.client.query_one(&self.set_tenants, &[&tenants]).await?;
        }
        Ok(())
    }

    /// Writes the rows of the plan in one statement.
    /// With `locked`, it also commits the transaction that locked the heads.
    /// If the tenants differ from the last flush, the setting goes first, in the same round trip.
    pub(super) async fn write(&self, batch: &[PendingAppend], plan: &Plan, locked: bool) -> WriteResult {
        let flush = Flush::of(batch, plan);
        let tenants = flush.tenants();
        let end = async {
            // After an error, `commit` rolls back.
            if locked { self.client.batch_execute("commit").await } else { Ok(()) }
        };
        // The futures are polled in this order, so the statements are sent in this order.
        let (set, written, ended) =
            futures::join!(self.set_writable_tenants(&tenants), self.write_rows(&flush), end);
        match (set, written, ended) {
            (Ok(()), Ok(swapped), Ok(())) => WriteResult::Committed(swapped),
            (Ok(()), Err(error), Ok(())) => {
                if locked {
                    lock(&self.tenants).clear();
                }
                WriteResult::failed(error)
            }
            // If the setting failed, the writable tenants of the connection are unknown.
            (Err(error), ..) | (.., Err(error)) => WriteResult::Unknown(error.into()),
        }
    }

    async fn write_rows(&self, flush: &Flush<'_>) -> Result<HashSet<TenantId>, tokio_postgres::Error> {
        if !flush.side_writes.is_empty() {
            return self.with_side_writes.query(&self.client, flush).await;
        }
        if flush.events.ids.len() == 1 {
            let written = self.single_event.execute(&self.client, flush).await?;
            return Ok(flush.heads.swapped(written));
        }
        if !flush.is_keyless() {
            return self.with_side_writes.query(&self.client, flush).await;
        }
        if flush.heads.tenants.len() == 1 {
            let written = self.single_tenant.execute(&self.client, flush).await?;
            return Ok(flush.heads.swapped(written));
        }
        self.events_only.query(&self.client, flush).await
    }

    /// Waits until no transaction of a lost connection holds the tenant's head, then changes the fence.
    /// Afterwards an older flush has either committed or can never commit.
    pub(super) async fn fence(&self, tenant: TenantId) -> Result<(), tokio_postgres::Error> {
        *lock(&self.tenants) = tenant.to_string();
        let fence: Uuid = schemas::engine::ids::random_id();
        self.client
            .batch_execute(&format!(
                "select set_config('annals.tenants', '{tenant}', false);
                 update heads set fence = '{fence}' where tenant_id = '{tenant}'"
            ))
            .await
    }
}

fn lock(tenants: &Mutex<String>) -> MutexGuard<'_, String> {
    // Code that holds the lock does not panic.
    tenants.lock().unwrap_or_else(PoisonError::into_inner)
}
