//! Tables of the Merkle trees: leaves and subtrees for the sealer and for proofs, and signed checkpoints.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use database::PooledConnection;
use proofs::{Hash, Node};
use schemas::engine::{LogId, TenantId, TenantSlug};
use tokio_postgres::Row;

use crate::pools::get;
use crate::{Store, StoreError, TenantStore};

/// The number of tree levels between two stored levels, so a stored subtree has 2^8 = 256 children.
/// Children are leaves or stored subtrees.
const LEVEL_BITS: u8 = 8;

/// Whether the root of this subtree is stored. Other roots are computed from stored ones.
pub fn is_stored(node: Node) -> bool {
    node.height > 0 && node.height.is_multiple_of(LEVEL_BITS)
}

/// A log with events after its last signed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsealedLog {
    /// The tenant.
    pub tenant: TenantId,
    /// The slug of the tenant.
    pub slug: TenantSlug,
    /// The current log.
    pub log_id: LogId,
    /// The head of the log.
    pub head: u64,
}

/// The last signed checkpoint of a tenant's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedLog {
    /// The log that was signed.
    pub log_id: LogId,
    /// The number of events that the checkpoint covers; 0 without a checkpoint.
    pub size: u64,
    /// The signed note (C2SP).
    pub note: String,
    /// The public key to verify the note, in the form of signed notes.
    pub verifier_key: String,
    /// The time of signing.
    pub sealed_at: DateTime<Utc>,
    /// The reason why the sealer refuses to sign more, if it does.
    pub refusal: Option<String>,
}

/// A signed checkpoint to store, with the subtrees that its events completed.
#[derive(Debug, Clone)]
pub struct Seal {
    /// The tenant.
    pub tenant: TenantId,
    /// The log that was signed.
    pub log_id: LogId,
    /// The number of events that the checkpoint covers.
    pub size: u64,
    /// The signed note (C2SP).
    pub note: String,
    /// The public key to verify the note.
    pub verifier_key: String,
    /// The completed subtrees with their roots.
    pub subtrees: Vec<(Node, Hash)>,
}

const SEALED_LOG_COLUMNS: &str = "log_id, size, note, verifier_key, sealed_at, refusal";

impl Store {
    /// Logs with events after their last signed checkpoint, and replaced logs. For the sealer.
    pub async fn unsealed_logs(&self) -> Result<Vec<UnsealedLog>, StoreError> {
        self.logs_for_sealer(false).await
    }

    /// All logs. For the sealer.
    pub async fn logs_to_check(&self) -> Result<Vec<UnsealedLog>, StoreError> {
        self.logs_for_sealer(true).await
    }

    async fn logs_for_sealer(&self, all: bool) -> Result<Vec<UnsealedLog>, StoreError> {
        let rows = get(&self.0.pools.sealer)
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

    /// The head of a log; `None` when the tenant has another log. For the sealer.
    pub async fn end_of_log(&self, tenant: TenantId, log_id: LogId) -> Result<Option<u64>, StoreError> {
        let statement = "select position from heads where tenant_id = $1 and log_id = $2";
        let row = get(&self.0.pools.sealer).await?.query_opt(statement, &[&tenant.0, &log_id.0]).await?;
        Ok(row.map(|row| row.get::<_, i64>(0) as u64))
    }

    /// The last signed checkpoint of a tenant's log. For the sealer.
    pub async fn sealed_log(&self, tenant: TenantId) -> Result<Option<SealedLog>, StoreError> {
        let statement = format!("select {SEALED_LOG_COLUMNS} from sealed_logs where tenant_id = $1");
        let row = get(&self.0.pools.sealer).await?.query_opt(&statement, &[&tenant.0]).await?;
        Ok(row.as_ref().map(sealed_from))
    }

    /// The leaves after position `after` up to `to`, in order. For the sealer.
    /// It stops before a missing position. A healthy log has none, so fewer leaves than requested mean a gap.
    pub async fn leaves(&self, tenant: TenantId, after: u64, to: u64) -> Result<Vec<Hash>, StoreError> {
        let connection = get(&self.0.pools.sealer).await?;
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

    /// The roots of these subtrees; missing subtrees are left out. For the sealer.
    pub async fn subtrees(
        &self,
        tenant: TenantId,
        nodes: &[Node],
    ) -> Result<HashMap<Node, Hash>, StoreError> {
        let connection = get(&self.0.pools.sealer).await?;
        read_nodes(&connection, tenant, nodes).await
    }

    /// Stores a checkpoint and its subtrees in one statement.
    /// Returns `false` when a larger one of the same log is stored.
    pub async fn store_seal(&self, seal: &Seal) -> Result<bool, StoreError> {
        let levels: Vec<i16> =
            seal.subtrees.iter().map(|(node, _)| i16::from(node.height / LEVEL_BITS)).collect();
        let indexes: Vec<i64> = seal.subtrees.iter().map(|(node, _)| node.index as i64).collect();
        let hashes: Vec<&[u8]> = seal.subtrees.iter().map(|(_, hash)| hash.as_slice()).collect();
        let connection = get(&self.0.pools.sealer).await?;
        let statement = "with kept as (
                     insert into sealed_logs as s (tenant_id, log_id, size, note, verifier_key, sealed_at)
                     values ($1, $2, $3, $4, $5, now())
                     on conflict (tenant_id) do update
                     set log_id = excluded.log_id, size = excluded.size, note = excluded.note,
                         verifier_key = excluded.verifier_key, sealed_at = excluded.sealed_at, refusal = null
                     where s.log_id <> excluded.log_id or s.size < excluded.size
                     returning 1
                 ), signed as (
                     insert into signed_checkpoints (tenant_id, log_id, size, note)
                     select $1, $2, $3, $4 where exists (select from kept)
                     on conflict do nothing
                 ), added as (
                     insert into subtrees (tenant_id, level, index, hash)
                     select $1, * from unnest($6::int2[], $7::int8[], $8::bytea[]) where exists (select from kept)
                     on conflict do nothing
                 )
                 select exists (select from kept)";
        let row = connection
            .query_one(
                statement,
                &[
                    &seal.tenant.0,
                    &seal.log_id.0,
                    &(seal.size as i64),
                    &seal.note,
                    &seal.verifier_key,
                    &levels,
                    &indexes,
                    &hashes,
                ],
            )
            .await?;
        Ok(row.get(0))
    }

    /// Stores the reason why the sealer refuses to sign more of a log. The last checkpoint is kept.
    pub async fn record_seal_refusal(&self, log: &UnsealedLog, why: &str) -> Result<(), StoreError> {
        get(&self.0.pools.sealer)
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
}

impl TenantStore {
    /// The last signed checkpoint of this tenant's log.
    pub async fn sealed_log(&self) -> Result<Option<SealedLog>, StoreError> {
        let transaction = self.begin().await?;
        let statement = format!("select {SEALED_LOG_COLUMNS} from sealed_logs where tenant_id = $1");
        let row = transaction.query_opt(&statement, &[&self.id().0]).await?;
        transaction.commit().await?;
        Ok(row.as_ref().map(sealed_from))
    }

    /// The signed note of the first `size` events of a log; `None` when no checkpoint of that size was signed.
    pub async fn signed_checkpoint(&self, log_id: LogId, size: u64) -> Result<Option<String>, StoreError> {
        let Ok(size) = i64::try_from(size) else { return Ok(None) };
        let transaction = self.begin().await?;
        let statement =
            "select note from signed_checkpoints where tenant_id = $1 and log_id = $2 and size = $3";
        let row = transaction.query_opt(statement, &[&self.id().0, &log_id.0, &size]).await?;
        transaction.commit().await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// The roots of these subtrees; subtrees that no checkpoint covers yet are left out.
    pub async fn subtrees(&self, nodes: &[Node]) -> Result<HashMap<Node, Hash>, StoreError> {
        let transaction = self.begin().await?;
        let found = read_nodes(transaction.connection(), self.id(), nodes).await?;
        transaction.commit().await?;
        Ok(found)
    }
}

/// Reads the leaves of subtrees.
///
/// The limit never cuts a result, because a subtree here has fewer leaves. It gives the planner an upper bound.
/// Without it, the planner assumes a large part of the log for a range with unknown ends, and reads the whole log.
pub const LEAVES_QUERY: &str = "select r.ordinal, e.leaf_hash
     from unnest($2::int8[], $3::int8[]) with ordinality as r(first, last, ordinal)
     cross join lateral (
         select position, leaf_hash from events
         where tenant_id = $1 and position > r.first and position <= r.last order by position limit 256
     ) e
     order by r.ordinal, e.position";
/// Reads the stored subtrees of one level below other subtrees; the limit is for the planner, as above.
pub const SUBTREES_QUERY: &str = "select r.ordinal, s.hash
     from unnest($2::int8[], $3::int8[]) with ordinality as r(first, last, ordinal)
     cross join lateral (
         select index, hash from subtrees
         where tenant_id = $1 and level = $4 and index >= r.first and index < r.last order by index limit 256
     ) s
     order by r.ordinal, s.index";

/// Computes the roots from leaves or from stored subtrees of the level below, at most 128 per root.
async fn read_nodes(
    connection: &PooledConnection,
    tenant: TenantId,
    nodes: &[Node],
) -> Result<HashMap<Node, Hash>, StoreError> {
    let mut found = HashMap::new();
    let deepest = nodes.iter().map(|node| node.height / LEVEL_BITS).max().unwrap_or(0);
    for level in 0..=deepest {
        let wanted: Vec<Node> =
            nodes.iter().copied().filter(|node| node.height / LEVEL_BITS == level).collect();
        if wanted.is_empty() {
            continue;
        }
        let span = |node: &Node| node.height - level * LEVEL_BITS;
        let first: Vec<i64> = wanted.iter().map(|node| (node.index << span(node)) as i64).collect();
        let end: Vec<i64> = wanted.iter().map(|node| ((node.index + 1) << span(node)) as i64).collect();
        let rows = if level == 0 {
            connection.query(LEAVES_QUERY, &[&tenant.0, &first, &end]).await?
        } else {
            connection.query(SUBTREES_QUERY, &[&tenant.0, &first, &end, &i16::from(level)]).await?
        };
        let mut parts: Vec<Vec<Hash>> = vec![Vec::new(); wanted.len()];
        for row in &rows {
            parts[row.get::<_, i64>(0) as usize - 1].push(hash_from(row, 1)?);
        }
        for (node, parts) in wanted.into_iter().zip(parts) {
            if parts.len() as u64 == 1 << span(&node) {
                found.insert(node, proofs::tree::fold(parts));
            }
        }
    }
    Ok(found)
}

fn sealed_from(row: &Row) -> SealedLog {
    SealedLog {
        log_id: LogId(row.get(0)),
        size: row.get::<_, i64>(1) as u64,
        note: row.get(2),
        verifier_key: row.get(3),
        sealed_at: row.get(4),
        refusal: row.get(5),
    }
}

fn hash_from(row: &Row, column: usize) -> Result<Hash, StoreError> {
    row.get::<_, &[u8]>(column).try_into().map_err(|error| StoreError::corrupt("a hash", error))
}
