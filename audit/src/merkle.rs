//! Reads of the Merkle trees: leaves and stored subtrees, and signed checkpoints. `sealer::rows` writes them.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use proofs::{Hash, Node};
use schemas::engine::{LogId, TenantId};
use store::sql::{PooledConnection, Row, ToSql};
use store::{StoreError, TenantStore, TenantTransaction};

/// The number of tree levels between two stored levels, so a stored subtree has 2^8 = 256 children.
/// Children are leaves or stored subtrees.
pub(crate) const LEVEL_BITS: u8 = 8;

/// Whether the root of this subtree is stored. Other roots are computed from stored ones.
pub(crate) fn is_stored(node: Node) -> bool {
    node.height > 0 && node.height.is_multiple_of(LEVEL_BITS)
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

pub(crate) const SEALED_LOG_COLUMNS: &str = "log_id, size, note, verifier_key, sealed_at, refusal";

/// The last signed checkpoint of a tenant's log.
///
/// # Errors
/// [`StoreError`] when the database does not answer; so do all functions here.
pub async fn sealed_log(tenant: &TenantStore) -> Result<Option<SealedLog>, StoreError> {
    let transaction = tenant.begin().await?;
    let statement = format!("select {SEALED_LOG_COLUMNS} from sealed_logs where tenant_id = $1");
    let row = transaction.query_opt(&statement, &[&tenant.id().0]).await?;
    transaction.commit().await?;
    Ok(row.as_ref().map(sealed_from))
}

/// The signed note of the first `size` events of a log; `None` when no checkpoint of that size was signed.
pub(crate) async fn signed_checkpoint(
    tenant: &TenantStore,
    log_id: LogId,
    size: u64,
) -> Result<Option<String>, StoreError> {
    let Ok(size) = i64::try_from(size) else { return Ok(None) };
    let transaction = tenant.begin().await?;
    let statement = "select note from signed_checkpoints where tenant_id = $1 and log_id = $2 and size = $3";
    let row = transaction.query_opt(statement, &[&tenant.id().0, &log_id.0, &size]).await?;
    transaction.commit().await?;
    Ok(row.map(|row| row.get(0)))
}

/// The roots of these subtrees; subtrees that no checkpoint covers yet are left out.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
/// [`StoreError::Corrupt`] when a stored hash has not 32 bytes.
pub async fn subtrees(tenant: &TenantStore, nodes: &[Node]) -> Result<HashMap<Node, Hash>, StoreError> {
    let reader = NodeReader::Tenant(tenant.begin().await?);
    let found = read_nodes(&reader, tenant.id(), nodes).await?;
    match reader {
        NodeReader::Tenant(transaction) => transaction.commit().await?,
        NodeReader::Sealer(_) => {}
    }
    Ok(found)
}

/// What reads the nodes: the handle of a tenant, or the sealer.
pub(crate) enum NodeReader {
    Tenant(TenantTransaction),
    Sealer(PooledConnection),
}

impl NodeReader {
    async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, StoreError> {
        match self {
            Self::Tenant(transaction) => transaction.query(sql, parameters).await,
            Self::Sealer(connection) => Ok(connection.query(sql, parameters).await?),
        }
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
pub(crate) async fn read_nodes(
    reader: &NodeReader,
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
            reader.query(LEAVES_QUERY, &[&tenant.0, &first, &end]).await?
        } else {
            reader.query(SUBTREES_QUERY, &[&tenant.0, &first, &end, &i16::from(level)]).await?
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

pub(crate) fn sealed_from(row: &Row) -> SealedLog {
    SealedLog {
        log_id: LogId(row.get("log_id")),
        size: row.get::<_, i64>("size") as u64,
        note: row.get("note"),
        verifier_key: row.get("verifier_key"),
        sealed_at: row.get("sealed_at"),
        refusal: row.get("refusal"),
    }
}

fn hash_from(row: &Row, column: usize) -> Result<Hash, StoreError> {
    row.get::<_, &[u8]>(column).try_into().map_err(|error| StoreError::corrupt("a hash", error))
}
