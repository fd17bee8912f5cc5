//! Rows of the relay: its progress per tenant, and the stream that the progress refers to.

use chrono::{DateTime, SubsecRound, Utc};
use schemas::engine::{LogId, TenantId, TenantSlug};
use store::sql::{PooledConnection, Row, ToSql};
use store::{CrossTenantRole, Store, StoreError};
use uuid::Uuid;

/// The relay's progress for one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayProgress {
    /// The tenant.
    pub tenant: TenantId,
    /// The slug, which is part of the subjects.
    pub slug: TenantSlug,
    /// The log of the positions.
    pub log_id: LogId,
    /// The stream epoch, part of the message ids. It grows for a republish:
    /// JetStream drops messages with known ids.
    pub stream_epoch: u32,
    /// Every position up to this one is on JetStream.
    pub acked: u64,
    /// Whether the stream has only messages of one stream epoch, from its beginning on, without later republishing.
    pub is_single_epoch: bool,
    /// The head of the log.
    pub head: u64,
    /// The number of messages removed from the stream at the last check. Up to `acked`, no loss was found until then.
    /// `None`: the stream may lack messages and must be checked.
    pub removed: Option<u64>,
    /// The last acknowledged message of this tenant.
    pub acked_message: AckedMessage,
    /// Up to this stream position, a lower log position may follow a higher one, because publishing was interrupted.
    pub out_of_order_until: u64,
}

/// A message on JetStream with its position in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AckedMessage {
    /// The stream position; 0 without a message.
    pub sequence: u64,
    /// The position in the log.
    pub position: u64,
}

impl AckedMessage {
    /// The message with the higher stream position.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        if other.sequence > self.sequence { other } else { self }
    }
}

/// A step of the relay's progress, stored by compare-and-swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RelayMove {
    /// The tenant.
    pub tenant: TenantId,
    /// The log of the positions.
    pub log_id: LogId,
    /// The stream epoch of the published messages.
    pub stream_epoch: u32,
    /// The expected old value of [`RelayProgress::acked`].
    pub from: u64,
    /// The new value of [`RelayProgress::acked`].
    pub to: u64,
    /// The number of messages removed from the stream so far.
    pub removed: u64,
    /// The last acknowledged message of this step.
    pub acked_message: AckedMessage,
    /// The new value of [`RelayProgress::out_of_order_until`].
    pub out_of_order_until: u64,
}

/// A connection of the relay.
#[expect(clippy::disallowed_methods, reason = "the relay serves all tenants")]
pub(crate) async fn connection(store: &Store) -> Result<PooledConnection, StoreError> {
    store.cross_tenant_connection(CrossTenantRole::Relay).await
}

const SELECT: &str = "select t.tenant_id, t.slug, h.log_id, coalesce(p.generation, 0), h.position,
                    case when p.log_id = h.log_id then p.acked else 0 end,
                    case when p.log_id = h.log_id then p.removed end,
                    case when p.log_id = h.log_id then p.mark_sequence else 0 end,
                    case when p.log_id = h.log_id then p.mark_position else 0 end,
                    case when p.log_id = h.log_id then p.disordered_to else 0 end,
                    coalesce(p.generation in (0, p.stream_generation), true)
             from tenants t join heads h on h.tenant_id = t.tenant_id
             left join relay_progress p on p.tenant_id = t.tenant_id";

/// The progress of every tenant. A tenant that was never relayed is at 0.
///
/// # Errors
/// [`StoreError`] when the database does not answer; so do all functions here.
pub async fn all(store: &Store) -> Result<Vec<RelayProgress>, StoreError> {
    select(store, "", &[]).await
}

/// The progress of one tenant; `None` when the tenant does not exist.
pub(crate) async fn of(store: &Store, tenant: TenantId) -> Result<Option<RelayProgress>, StoreError> {
    Ok(select(store, "where t.tenant_id = $1", &[&tenant.0]).await?.pop())
}

/// The progress of the tenants that are not at the head of their log, and of these tenants.
pub(crate) async fn outstanding(
    store: &Store,
    tenants: &[TenantId],
) -> Result<Vec<RelayProgress>, StoreError> {
    let tenants: Vec<Uuid> = tenants.iter().map(|tenant| tenant.0).collect();
    // Only the rows that are found are joined with the directory.
    let among = "(select h.tenant_id from heads h left join relay_progress p on p.tenant_id = h.tenant_id
                   where coalesce(p.acked, 0) <> h.position or p.log_id <> h.log_id
                   union select unnest($1::uuid[]))";
    of_found(store, among, "true", &[&tenants]).await
}

/// The progress with the highest stream position of a last acknowledged message.
pub(crate) async fn farthest(store: &Store) -> Result<Option<RelayProgress>, StoreError> {
    // A replaced log has no such message. There are few of them, so the first rows suffice.
    let among = "(select tenant_id from relay_progress order by mark_sequence desc limit 10)";
    let found = of_found(store, among, "p.log_id = h.log_id", &[]).await?;
    if let Some(farthest) = found.into_iter().max_by_key(|found| found.acked_message.sequence) {
        return Ok(Some(farthest));
    }
    Ok(select(store, "where p.log_id = h.log_id order by p.mark_sequence desc limit 1", &[]).await?.pop())
}

/// The progress of the tenants that were last checked when another number of messages had left the stream.
pub(crate) async fn suspected(store: &Store, removed: u64) -> Result<Vec<RelayProgress>, StoreError> {
    let among = "(select tenant_id from relay_progress where acked > 0 and removed is distinct from $1)";
    of_found(store, among, "p.log_id = h.log_id", &[&(removed as i64)]).await
}

/// The progress of the tenants that a subquery finds. They are few, so each is looked up by its key.
async fn of_found(
    store: &Store,
    among: &str,
    condition: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<RelayProgress>, StoreError> {
    let sql = format!(
        "select r.* from {among} f
         cross join lateral ({SELECT} where t.tenant_id = f.tenant_id and {condition} offset 0) r"
    );
    let rows = connection(store).await?.query(&sql, parameters).await?;
    rows.iter().map(progress_from).collect()
}

async fn select(
    store: &Store,
    condition: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<RelayProgress>, StoreError> {
    let connection = connection(store).await?;
    let rows = connection.query(&format!("{SELECT} {condition}"), parameters).await?;
    rows.iter().map(progress_from).collect()
}

/// Stores the progress of several tenants and returns the tenants that were updated.
/// The others were moved by another relay, or a republish has begun.
pub(crate) async fn advance(store: &Store, moves: &[RelayMove]) -> Result<Vec<TenantId>, StoreError> {
    let tenants: Vec<Uuid> = moves.iter().map(|moved| moved.tenant.0).collect();
    let logs: Vec<Uuid> = moves.iter().map(|moved| moved.log_id.0).collect();
    let generations: Vec<i32> = moves.iter().map(|moved| moved.stream_epoch as i32).collect();
    let numbers = |of: fn(&RelayMove) -> u64| moves.iter().map(|moved| of(moved) as i64).collect();
    let from: Vec<i64> = numbers(|moved| moved.from);
    let to: Vec<i64> = numbers(|moved| moved.to);
    let removed: Vec<i64> = numbers(|moved| moved.removed);
    let sequences: Vec<i64> = numbers(|moved| moved.acked_message.sequence);
    let positions: Vec<i64> = numbers(|moved| moved.acked_message.position);
    let disordered: Vec<i64> = numbers(|moved| moved.out_of_order_until);
    let connection = connection(store).await?;
    let statement = "with wanted as (
                 select * from unnest(:tenants::uuid[], :logs::uuid[], :generations::int4[], :from::int8[], :to::int8[],
                                      :removed::int8[], :sequences::int8[], :positions::int8[], :disordered::int8[])
                     as w(tenant_id, log_id, generation, acked_before, acked, removed, mark_sequence, mark_position,
                          disordered_to)
             )
             insert into relay_progress as p
                 (tenant_id, log_id, generation, acked, removed, mark_sequence, mark_position, disordered_to)
             select w.tenant_id, w.log_id, w.generation, w.acked, w.removed, w.mark_sequence, w.mark_position,
                    w.disordered_to
             from wanted w
             where w.acked_before = 0
                or exists (select from relay_progress p where p.tenant_id = w.tenant_id and p.log_id = w.log_id
                           and p.generation = w.generation and p.acked = w.acked_before)
             order by w.tenant_id
             on conflict (tenant_id) do update
             set log_id = excluded.log_id, generation = excluded.generation, acked = excluded.acked,
                 -- What was published before a loss was known may be part of it.
                 removed = case when p.log_id = excluded.log_id then least(p.removed, excluded.removed)
                                else excluded.removed end,
                 mark_sequence = case when p.log_id <> excluded.log_id or excluded.mark_sequence > p.mark_sequence
                                      then excluded.mark_sequence else p.mark_sequence end,
                 mark_position = case when p.log_id <> excluded.log_id or excluded.mark_sequence > p.mark_sequence
                                      then excluded.mark_position else p.mark_position end,
                 disordered_to = case when p.log_id <> excluded.log_id then excluded.disordered_to
                                      else greatest(p.disordered_to, excluded.disordered_to) end
             where (p.log_id, p.generation, p.acked)
                   = (select w.log_id, w.generation, w.acked_before from wanted w where w.tenant_id = p.tenant_id)
                or (p.log_id <> excluded.log_id and excluded.generation = p.generation
                    and (select w.acked_before from wanted w where w.tenant_id = p.tenant_id) = 0)
             returning p.tenant_id";
    let rows = connection
        .query_named(
            statement,
            &[
                ("tenants", &tenants),
                ("logs", &logs),
                ("generations", &generations),
                ("from", &from),
                ("to", &to),
                ("removed", &removed),
                ("sequences", &sequences),
                ("positions", &positions),
                ("disordered", &disordered),
            ],
        )
        .await?;
    Ok(rows.iter().map(|row| TenantId(row.get(0))).collect())
}

/// The creation time of the stream that the progress refers to.
pub(crate) async fn stream_created(store: &Store) -> Result<Option<DateTime<Utc>>, StoreError> {
    let connection = connection(store).await?;
    let row = connection.query_opt("select created_at from relay_stream", &[]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// Compares the creation time of the stream with the stored one.
///
/// Returns `false` for another stream, which has lost `removed` messages so far.
/// Then all stream epochs were raised and all progress was reset, so that everything is published again.
pub(crate) async fn check_stream(
    store: &Store,
    created_at: DateTime<Utc>,
    removed: u64,
) -> Result<bool, StoreError> {
    // PostgreSQL stores microseconds, JetStream nanoseconds.
    let created_at = created_at.trunc_subsecs(6);
    let transaction = connection(store).await?;
    transaction.begin("begin").await?;
    let before = transaction.query_opt("select created_at from relay_stream for update", &[]).await?;
    let same = before.map(|row| row.get::<_, DateTime<Utc>>(0) == created_at);
    match same {
        Some(true) => {}
        Some(false) => {
            transaction.execute("update relay_stream set created_at = $1", &[&created_at]).await?;
            transaction
                .execute(
                    "update relay_progress set generation = generation + 1, stream_generation = generation + 1, acked = 0,
                            removed = $1, mark_sequence = 0, mark_position = 0, disordered_to = 0",
                    &[&(removed as i64)],
                )
                .await?;
        }
        None => {
            let first = "insert into relay_stream (created_at) values ($1) on conflict do nothing";
            transaction.execute(first, &[&created_at]).await?;
        }
    }
    transaction.commit().await?;
    Ok(same.unwrap_or(true))
}

/// Handles a stream that returned to an earlier state: raises all stream epochs and marks all tenants for a check.
///
/// `farthest` is the highest last acknowledged stream position that was read.
/// Comparing it lets only one of several relays act; the others get `false`.
pub(crate) async fn reset_after_stream_regression(store: &Store, farthest: u64) -> Result<bool, StoreError> {
    let transaction = connection(store).await?;
    transaction.begin("begin").await?;
    transaction.query_opt("select created_at from relay_stream for update", &[]).await?;
    let raised = transaction
        .execute(
            "update relay_progress set generation = generation + 1, removed = -1, mark_sequence = 0, mark_position = 0,
                    disordered_to = 0
             where (select max(mark_sequence) from relay_progress) = $1",
            &[&(farthest as i64)],
        )
        .await?;
    transaction.commit().await?;
    Ok(raised > 0)
}

/// Raises the stream epoch of a tenant and sets its progress to `acked`; later events are then published again.
/// Returns `None` when the progress differs from `before`.
pub(crate) async fn begin_republish(
    store: &Store,
    before: &RelayProgress,
    acked: u64,
) -> Result<Option<RelayProgress>, StoreError> {
    let next = RelayProgress {
        stream_epoch: before.stream_epoch + 1,
        is_single_epoch: false,
        acked,
        removed: None,
        acked_message: AckedMessage::default(),
        out_of_order_until: 0,
        ..before.clone()
    };
    let changed = replace_progress(store, before, &next).await?;
    Ok(changed.then_some(next))
}

/// Raises the stream epoch of a tenant if it is still `stream_epoch`, and marks the tenant for a check.
pub(crate) async fn bump_stream_epoch(
    store: &Store,
    tenant: TenantId,
    log_id: LogId,
    stream_epoch: u32,
) -> Result<(), StoreError> {
    connection(store)
        .await?
        .execute(
            "insert into relay_progress as p (tenant_id, log_id, generation, acked) values ($1, $2, $3 + 1, 0)
             on conflict (tenant_id) do update set generation = p.generation + 1, removed = -1
             where p.generation = $3",
            &[&tenant.0, &log_id.0, &(stream_epoch as i32)],
        )
        .await?;
    Ok(())
}

/// Records that no message up to `acked` was missing when the stream had removed `removed` messages.
/// Returns `false` when the progress differs from `before`.
pub(crate) async fn end_republish(
    store: &Store,
    before: &RelayProgress,
    removed: u64,
    acked_message: AckedMessage,
) -> Result<bool, StoreError> {
    let next = RelayProgress { removed: Some(removed), acked_message, ..before.clone() };
    replace_progress(store, before, &next).await
}

async fn replace_progress(
    store: &Store,
    before: &RelayProgress,
    next: &RelayProgress,
) -> Result<bool, StoreError> {
    let removed = |progress: &RelayProgress| progress.removed.map_or(-1, |removed| removed as i64);
    let changed = connection(store)
        .await?
        .execute_named(
            "update relay_progress
             set generation = :next_generation, acked = :next_acked, removed = :next_removed,
                 mark_sequence = :sequence, mark_position = :position, disordered_to = :disordered_to
             where tenant_id = :tenant_id and log_id = :log_id and (generation, acked) = (:generation, :acked)
               and removed = :removed",
            &[
                ("tenant_id", &before.tenant.0),
                ("log_id", &before.log_id.0),
                ("generation", &(before.stream_epoch as i32)),
                ("acked", &(before.acked as i64)),
                ("removed", &removed(before)),
                ("next_generation", &(next.stream_epoch as i32)),
                ("next_acked", &(next.acked as i64)),
                ("next_removed", &removed(next)),
                ("sequence", &(next.acked_message.sequence as i64)),
                ("position", &(next.acked_message.position as i64)),
                ("disordered_to", &(next.out_of_order_until as i64)),
            ],
        )
        .await?;
    Ok(changed == 1)
}

fn progress_from(row: &Row) -> Result<RelayProgress, StoreError> {
    let number = |column: usize| row.get::<_, Option<i64>>(column).unwrap_or(0) as u64;
    Ok(RelayProgress {
        tenant: TenantId(row.get(0)),
        slug: TenantSlug::parse(row.get(1))?,
        log_id: LogId(row.get(2)),
        stream_epoch: row.get::<_, i32>(3) as u32,
        head: number(4),
        acked: number(5),
        removed: row.get::<_, Option<i64>>(6).and_then(|removed| u64::try_from(removed).ok()),
        acked_message: AckedMessage { sequence: number(7), position: number(8) },
        out_of_order_until: number(9),
        is_single_epoch: row.get(10),
    })
}
