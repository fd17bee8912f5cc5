//! Rows of the sealer, over all tenants: unsealed logs, leaves, subtrees, and signed checkpoints.

use std::collections::HashMap;

use proofs::{Hash, Node};
use schemas::engine::{LogId, TenantId, TenantSlug};
use store::sql::PooledConnection;
use store::{CrossTenantRole, Store, StoreError};

use crate::merkle::{LEVEL_BITS, NodeReader, SEALED_LOG_COLUMNS, SealedLog, read_nodes, sealed_from};

/// A log with events after its last signed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnsealedLog {
    /// The tenant.
    pub(super) tenant: TenantId,
    /// The slug of the tenant.
    pub(super) slug: TenantSlug,
    /// The current log.
    pub(super) log_id: LogId,
    /// The head of the log.
    pub(super) head: u64,
}

/// A signed checkpoint to store, with the subtrees that its events completed.
#[derive(Debug, Clone)]
pub(super) struct Seal {
    /// The tenant.
    pub(super) tenant: TenantId,
    /// The log that was signed.
    pub(super) log_id: LogId,
    /// The number of events that the checkpoint covers.
    pub(super) size: u64,
    /// The signed note (C2SP).
    pub(super) note: String,
    /// The public key to verify the note.
    pub(super) verifier_key: String,
    /// The completed subtrees with their roots.
    pub(super) subtrees: Vec<(Node, Hash)>,
}

#[expect(clippy::disallowed_methods, reason = "the sealer serves all tenants")]
async fn connection(store: &Store) -> Result<PooledConnection, StoreError> {
    store.cross_tenant_connection(CrossTenantRole::Sealer).await
}

/// Logs with events after their last signed checkpoint, and replaced logs.
pub(super) async fn unsealed_logs(store: &Store) -> Result<Vec<UnsealedLog>, StoreError> {
    logs(store, false).await
}

/// All logs.
pub(super) async fn logs_to_check(store: &Store) -> Result<Vec<UnsealedLog>, StoreError> {
    logs(store, true).await
}

async fn logs(store: &Store, all: bool) -> Result<Vec<UnsealedLog>, StoreError> {
    let rows = connection(store)
        .await?
        .query(
            "select t.tenant_id, t.slug, h.log_id, h.position
             from tenants t join heads h on h.tenant_id = t.tenant_id
             left join sealed_logs s on s.tenant_id = t.tenant_id and s.log_id = h.log_id
             where $1 or (h.position > 0 and s.size is distinct from h.position)
             order by t.tenant_id",
            &[&all],
        )
        .await?;
    let logs = rows.iter().map(|row| {
        Ok(UnsealedLog {
            tenant: TenantId(row.get(0)),
            slug: TenantSlug::parse(row.get(1))?,
            log_id: LogId(row.get(2)),
            head: row.get::<_, i64>(3) as u64,
        })
    });
    logs.collect()
}

/// The head of a log; `None` when the tenant has another log.
pub(super) async fn end_of_log(
    store: &Store,
    tenant: TenantId,
    log_id: LogId,
) -> Result<Option<u64>, StoreError> {
    let statement = "select position from heads where tenant_id = $1 and log_id = $2";
    let row = connection(store).await?.query_opt(statement, &[&tenant.0, &log_id.0]).await?;
    Ok(row.map(|row| row.get::<_, i64>(0) as u64))
}

/// The last signed checkpoint of a tenant's log.
pub(super) async fn sealed_log(store: &Store, tenant: TenantId) -> Result<Option<SealedLog>, StoreError> {
    let statement = format!("select {SEALED_LOG_COLUMNS} from sealed_logs where tenant_id = $1");
    let row = connection(store).await?.query_opt(&statement, &[&tenant.0]).await?;
    Ok(row.as_ref().map(sealed_from))
}

/// The leaves after position `after` up to `to`, in order.
/// It stops before a missing position. A healthy log has none, so fewer leaves than requested mean a gap.
pub(super) async fn leaves(
    store: &Store,
    tenant: TenantId,
    after: u64,
    to: u64,
) -> Result<Vec<Hash>, StoreError> {
    let connection = connection(store).await?;
    // One value is cheaper than one row per leaf.
    // It contains the positions, because the input order of an aggregate over a subquery is not guaranteed.
    let statement = "select coalesce(string_agg(int8send(position) || leaf_hash, ''::bytea), ''::bytea)
             from (select position, leaf_hash from events
                   where tenant_id = $1 and position > $2 and position <= $3 order by position) as leaves";
    let row = connection.query_one(statement, &[&tenant.0, &(after as i64), &(to as i64)]).await?;
    let (leaves, _) = row.get::<_, &[u8]>(0).as_chunks::<{ size_of::<u64>() + size_of::<Hash>() }>();
    let expected = (after + 1..).map(u64::to_be_bytes);
    let dense = leaves.iter().zip(expected).map_while(|(leaf, position)| leaf.strip_prefix(&position));
    dense.map(|leaf| leaf.try_into().map_err(|error| StoreError::corrupt("a leaf", error))).collect()
}

/// The roots of these subtrees; missing subtrees are left out.
pub(super) async fn subtrees(
    store: &Store,
    tenant: TenantId,
    nodes: &[Node],
) -> Result<HashMap<Node, Hash>, StoreError> {
    let connection = connection(store).await?;
    read_nodes(&NodeReader::Sealer(connection), tenant, nodes).await
}

/// Stores a checkpoint and its subtrees in one statement.
/// Returns `false` when a larger one of the same log is stored.
pub(super) async fn store_seal(store: &Store, seal: &Seal) -> Result<bool, StoreError> {
    let levels: Vec<i16> =
        seal.subtrees.iter().map(|(node, _)| i16::from(node.height / LEVEL_BITS)).collect();
    let indexes: Vec<i64> = seal.subtrees.iter().map(|(node, _)| node.index as i64).collect();
    let hashes: Vec<&[u8]> = seal.subtrees.iter().map(|(_, hash)| hash.as_slice()).collect();
    let statement = "with kept as (
                 insert into sealed_logs as s (tenant_id, log_id, size, note, verifier_key, sealed_at)
                 values (:tenant_id, :log_id, :size, :note, :verifier_key, now())
                 on conflict (tenant_id) do update
                 set log_id = excluded.log_id, size = excluded.size, note = excluded.note,
                     verifier_key = excluded.verifier_key, sealed_at = excluded.sealed_at, refusal = null
                 where s.log_id <> excluded.log_id or s.size < excluded.size
                 returning 1
             ), signed as (
                 insert into signed_checkpoints (tenant_id, log_id, size, note)
                 select :tenant_id, :log_id, :size, :note where exists (select from kept)
                 on conflict do nothing
             ), added as (
                 insert into subtrees (tenant_id, level, index, hash)
                 select :tenant_id, * from unnest(:levels::int2[], :indexes::int8[], :hashes::bytea[])
                 where exists (select from kept)
                 on conflict do nothing
             )
             select exists (select from kept)";
    let row = connection(store)
        .await?
        .query_opt_named(
            statement,
            &[
                ("tenant_id", &seal.tenant.0),
                ("log_id", &seal.log_id.0),
                ("size", &(seal.size as i64)),
                ("note", &seal.note),
                ("verifier_key", &seal.verifier_key),
                ("levels", &levels),
                ("indexes", &indexes),
                ("hashes", &hashes),
            ],
        )
        .await?;
    Ok(row.is_some_and(|row| row.get(0)))
}

/// Stores the reason why the sealer refuses to sign more of a log. The last checkpoint is kept.
pub(super) async fn record_seal_refusal(
    store: &Store,
    log: &UnsealedLog,
    why: &str,
) -> Result<(), StoreError> {
    connection(store)
        .await?
        .execute(
            "insert into sealed_logs as s (tenant_id, log_id, size, note, verifier_key, sealed_at, refusal)
             values ($1, $2, 0, '', '', now(), $3)
             on conflict (tenant_id) do update set refusal = excluded.refusal
             where s.refusal is distinct from excluded.refusal",
            &[&log.tenant.0, &log.log_id.0, &why],
        )
        .await?;
    Ok(())
}
