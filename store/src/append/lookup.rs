//! Look-ups of a flush: heads, versions, receipts and reservations of many tenants, pipelined in one round trip.
//! The database role of the look-ups cannot read payloads.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use database::Connection;
use schemas::engine::{LogId, StreamName, TenantId};
use tokio_postgres::{Client, Statement};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::plan::{HeadView, ReservationKey};
use crate::StoreError;
use crate::stored_receipt::{self, IdempotencyClaim, StoredReceipt};

/// A connection with the prepared look-up statements.
pub(super) struct Lookup {
    client: Client,
    _driver: AbortOnDropHandle<()>,
    heads: Statement,
    versions: Statement,
    receipts: Statement,
    reservations: Statement,
}

/// The keys to look up, because the caches do not have them.
#[derive(Default)]
pub(super) struct LookupKeys {
    pub(super) heads: HashSet<TenantId>,
    pub(super) versions: HashSet<(TenantId, StreamName)>,
    pub(super) receipts: HashSet<(TenantId, Uuid)>,
    pub(super) reservations: HashSet<(TenantId, ReservationKey)>,
}

impl LookupKeys {
    pub(super) fn is_empty(&self) -> bool {
        self.heads.is_empty()
            && self.versions.is_empty()
            && self.receipts.is_empty()
            && self.reservations.is_empty()
    }
}

/// The rows found; a missing key has no row.
#[derive(Default)]
pub(super) struct LookupResult {
    pub(super) heads: HashMap<TenantId, HeadView>,
    pub(super) versions: HashMap<(TenantId, StreamName), u64>,
    pub(super) receipts: HashMap<(TenantId, Uuid), StoredReceipt>,
    pub(super) holders: HashMap<(TenantId, ReservationKey), StreamName>,
}

/// Reads a head from the columns tenant, log, position, time and fence.
pub(super) fn head_from(row: &tokio_postgres::Row) -> (TenantId, HeadView) {
    let view = HeadView {
        log_id: LogId(row.get(1)),
        position: row.get::<_, i64>(2) as u64,
        recorded_at: row.get(3),
        fence: row.get(4),
    };
    (TenantId(row.get(0)), view)
}

impl Lookup {
    pub(super) async fn prepare(Connection { client, driver }: Connection) -> Result<Self, StoreError> {
        let heads = client
            .prepare("select tenant_id, log_id, position, recorded_at, fence from heads where tenant_id = any($1::uuid[])")
            .await?;
        // The scalar sub-select reads one entry of the unique index per stream, whatever the planner estimates.
        let versions = client
            .prepare(
                "select w.n, (select e.version from events e where e.tenant_id = w.tenant_id and e.stream = w.stream
                              order by e.version desc limit 1)
                 from unnest($1::uuid[], $2::text[]) with ordinality as w(tenant_id, stream, n)",
            )
            .await?;
        let receipts = client
            .prepare(&format!(
                "select r.tenant_id, r.command_id, {} from unnest($1::uuid[], $2::uuid[]) as w(tenant_id, command_id)
                 join receipts r on r.tenant_id = w.tenant_id and r.command_id = w.command_id
                 join heads h on h.tenant_id = r.tenant_id",
                stored_receipt::COLUMNS
            ))
            .await?;
        let reservations = client
            .prepare(
                "select w.n, r.stream from unnest($1::uuid[], $2::text[], $3::bytea[])
                     with ordinality as w(tenant_id, kind, value_hash, n)
                 join reservations r
                   on r.tenant_id = w.tenant_id and r.kind = w.kind and r.value_hash = w.value_hash",
            )
            .await?;
        Ok(Self { client, _driver: driver, heads, versions, receipts, reservations })
    }

    /// Looks up all keys. The order of the queries matters.
    ///
    /// Heads first: later results are at least as new, and the compare-and-swap fails if the head has moved since.
    /// Receipts last: a command without a receipt had none when the other rows were read, so a rejection is no repeat.
    pub(super) async fn look_up(&self, keys: &LookupKeys) -> Result<LookupResult, StoreError> {
        let (heads, versions, holders, receipts) = futures::join!(
            self.look_up_heads(&keys.heads),
            self.look_up_versions(&keys.versions),
            self.look_up_holders(&keys.reservations),
            self.look_up_receipts(&keys.receipts),
        );
        Ok(LookupResult { heads: heads?, versions: versions?, receipts: receipts?, holders: holders? })
    }

    async fn look_up_heads(
        &self,
        keys: &HashSet<TenantId>,
    ) -> Result<HashMap<TenantId, HeadView>, StoreError> {
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let tenants: Vec<Uuid> = keys.iter().map(|tenant| tenant.0).collect();
        let rows = self.client.query(&self.heads, &[&tenants]).await?;
        Ok(rows.iter().map(head_from).collect())
    }

    async fn look_up_versions(
        &self,
        keys: &HashSet<(TenantId, StreamName)>,
    ) -> Result<HashMap<(TenantId, StreamName), u64>, StoreError> {
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let keys: Vec<_> = keys.iter().collect();
        let tenants: Vec<Uuid> = keys.iter().map(|(tenant, _)| tenant.0).collect();
        let streams: Vec<&str> = keys.iter().map(|(_, stream)| stream.as_str()).collect();
        let rows = self.client.query(&self.versions, &[&tenants, &streams]).await?;
        let version = |row: &tokio_postgres::Row| {
            let key = keys[row.get::<_, i64>(0) as usize - 1].clone();
            (key, row.get::<_, Option<i64>>(1).unwrap_or(0) as u64)
        };
        Ok(rows.iter().map(version).collect())
    }

    async fn look_up_receipts(
        &self,
        keys: &HashSet<(TenantId, Uuid)>,
    ) -> Result<HashMap<(TenantId, Uuid), StoredReceipt>, StoreError> {
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let tenants: Vec<Uuid> = keys.iter().map(|(tenant, _)| tenant.0).collect();
        let keys: Vec<Uuid> = keys.iter().map(|(_, key)| *key).collect();
        let rows = self.client.query(&self.receipts, &[&tenants, &keys]).await?;
        rows.iter()
            .map(|row| Ok(((TenantId(row.get(0)), row.get(1)), StoredReceipt::from_row(row, 2)?)))
            .collect()
    }

    async fn look_up_holders(
        &self,
        keys: &HashSet<(TenantId, ReservationKey)>,
    ) -> Result<HashMap<(TenantId, ReservationKey), StreamName>, StoreError> {
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let keys: Vec<_> = keys.iter().collect();
        let tenants: Vec<Uuid> = keys.iter().map(|(tenant, _)| tenant.0).collect();
        let kinds: Vec<&str> = keys.iter().map(|(_, (kind, _))| *kind).collect();
        let hashes: Vec<&[u8]> = keys.iter().map(|(_, (_, hash))| hash.as_slice()).collect();
        let rows = self.client.query(&self.reservations, &[&tenants, &kinds, &hashes]).await?;
        rows.iter()
            .map(|row| {
                let key = *keys[row.get::<_, i64>(0) as usize - 1];
                Ok((key, StreamName::parse(row.get(1))?))
            })
            .collect()
    }

    /// Whether the log has this event at this position.
    pub(super) async fn contains_event(
        &self,
        tenant: TenantId,
        position: u64,
        event_id: Uuid,
    ) -> Result<bool, StoreError> {
        let statement = "select from events where tenant_id = $1 and position = $2 and event_id = $3";
        let found = self.client.query_opt(statement, &[&tenant.0, &(position as i64), &event_id]).await?;
        Ok(found.is_some())
    }

    /// Whether the receipt of a flush that was planned at `planned_at` exists.
    pub(super) async fn contains_receipt(
        &self,
        tenant: TenantId,
        claim: &IdempotencyClaim,
        planned_at: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let statement = "select from receipts where tenant_id = $1 and command_id = $2 and digest = $3 and recorded_at = $4";
        let found = self
            .client
            .query_opt(statement, &[&tenant.0, &claim.key, &claim.digest.as_slice(), &planned_at])
            .await?;
        Ok(found.is_some())
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}
