//! Checkpoints of consumers per tenant.
//!
//! A checkpoint moves by compare-and-swap in the transaction with the effect of the events.
//! So each event takes effect once, even if it is delivered several times.

use std::ops::RangeInclusive;
use std::time::Duration;

use database::Parameter;
use schemas::engine::{LogId, TenantId};

use crate::pools::get;
use crate::{Head, Store, StoreError, TenantStore, TenantTransaction};

/// The progress of a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log of the position.
    pub log_id: LogId,
    /// The last processed position.
    pub position: u64,
}

/// A move of a consumer's checkpoint, from any of several positions between which no event has an effect.
#[derive(Debug, Clone)]
pub struct CheckpointStep<'a> {
    /// The consumer.
    pub consumer: &'a str,
    /// The log of the positions.
    pub log_id: LogId,
    /// The possible positions of the checkpoint.
    pub from: RangeInclusive<u64>,
    /// The new position.
    pub to: u64,
}

/// Poll interval of a waiting reader, because another process may run the projection.
const CHECKPOINT_POLL_INTERVAL: Duration = Duration::from_millis(20);

impl TenantTransaction {
    /// The checkpoint of a consumer; `None` before its first move.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn checkpoint(&self, consumer: &str) -> Result<Option<Checkpoint>, StoreError> {
        let row = self
            .query_opt(
                "select log_id, position from checkpoints where tenant_id = $1 and consumer = $2",
                &[&self.tenant().0, &consumer],
            )
            .await?;
        Ok(row.map(|row| Checkpoint { log_id: LogId(row.get(0)), position: row.get::<_, i64>(1) as u64 }))
    }

    /// Moves a checkpoint of this log from one position to another, by compare-and-swap.
    ///
    /// Returns `false` when the checkpoint is not at `from`, or when the log is another one or ends before `to`.
    /// Then the transaction must not commit.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer, or when the transaction is read-only.
    pub async fn move_checkpoint(
        &self,
        consumer: &str,
        log_id: LogId,
        from: u64,
        to: u64,
    ) -> Result<bool, StoreError> {
        self.move_checkpoint_within(consumer, log_id, from..=from, to).await
    }

    /// As [`move_checkpoint`](Self::move_checkpoint), from any of several positions: no event between them has an
    /// effect.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer, or when the transaction is read-only.
    pub async fn move_checkpoint_within(
        &self,
        consumer: &str,
        log_id: LogId,
        from: RangeInclusive<u64>,
        to: u64,
    ) -> Result<bool, StoreError> {
        let (low, high, to) = (*from.start() as i64, *from.end() as i64, to as i64);
        let moved = if low == 0 {
            self.execute(
                "insert into checkpoints (tenant_id, consumer, log_id, position)
                 select h.tenant_id, $2, h.log_id, $4 from heads h
                 where h.tenant_id = $1 and h.log_id = $3 and h.position >= $4
                 on conflict (tenant_id, consumer) do update set position = excluded.position, updated_at = now()
                 where checkpoints.position <= $5 and checkpoints.log_id = excluded.log_id",
                &[&self.tenant().0, &consumer, &log_id.0, &to, &high],
            )
            .await?
        } else {
            self.execute_named(
                "update checkpoints set position = :to, updated_at = now()
                 where tenant_id = :tenant_id and consumer = :consumer and log_id = :log_id
                   and position between :low and :high
                   and exists (select from heads h
                               where h.tenant_id = :tenant_id and h.log_id = :log_id and h.position >= :to)",
                &[
                    ("tenant_id", &self.tenant().0),
                    ("consumer", &consumer),
                    ("log_id", &log_id.0),
                    ("low", &low),
                    ("high", &high),
                    ("to", &to),
                ],
            )
            .await?
        };
        Ok(moved == 1)
    }
}

impl TenantTransaction {
    /// Moves the checkpoints of several consumers. Returns `false` when one of them cannot be moved.
    /// Then the transaction must not commit.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer, or when the transaction is read-only.
    pub async fn move_checkpoints(&self, steps: &[CheckpointStep<'_>]) -> Result<bool, StoreError> {
        let tenant = self.tenant().0;
        let consumers: Vec<&str> = steps.iter().map(|step| step.consumer).collect();
        let logs: Vec<uuid::Uuid> = steps.iter().map(|step| step.log_id.0).collect();
        let low: Vec<i64> = steps.iter().map(|step| *step.from.start() as i64).collect();
        let high: Vec<i64> = steps.iter().map(|step| *step.from.end() as i64).collect();
        let to: Vec<i64> = steps.iter().map(|step| step.to as i64).collect();
        let parameters: [Parameter<'_>; 6] = [
            ("tenant_id", &tenant),
            ("consumers", &consumers),
            ("logs", &logs),
            ("low", &low),
            ("high", &high),
            ("to", &to),
        ];
        // Rows are locked in the order of their names, so that two processes do not block each other.
        let moved = self
            .execute_named(
                "with steps as (
                     select w.* from unnest(:consumers::text[], :logs::uuid[], :low::int8[], :high::int8[], :to::int8[])
                                     w(consumer, log_id, low, high, goal)
                     join heads h on h.tenant_id = :tenant_id and h.log_id = w.log_id and h.position >= w.goal
                 ), locked as (
                     select c.consumer, w.goal from checkpoints c
                     join steps w on w.consumer = c.consumer and w.log_id = c.log_id
                                  and c.position between w.low and w.high
                     where c.tenant_id = :tenant_id order by c.consumer for update of c
                 )
                 update checkpoints c set position = l.goal, updated_at = now()
                 from locked l where c.tenant_id = :tenant_id and c.consumer = l.consumer",
                &parameters,
            )
            .await?;
        if moved == steps.len() as u64 || low.iter().all(|low| *low > 0) {
            return Ok(moved == steps.len() as u64);
        }
        let begun = self
            .execute_named(
                "insert into checkpoints (tenant_id, consumer, log_id, position)
                 select h.tenant_id, w.consumer, h.log_id, w.goal
                 from unnest(:consumers::text[], :logs::uuid[], :low::int8[], :high::int8[], :to::int8[])
                      w(consumer, log_id, low, high, goal)
                 join heads h on h.tenant_id = :tenant_id and h.log_id = w.log_id and h.position >= w.goal
                 where w.low = 0 order by w.consumer
                 on conflict (tenant_id, consumer) do nothing",
                &parameters,
            )
            .await?;
        Ok(moved + begun == steps.len() as u64)
    }
}

impl TenantTransaction {
    /// Whether the checkpoint is of another log. Then the consumer has processed lost events.
    /// Ask after a failed move.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn is_of_another_log(&self, consumer: &str) -> Result<bool, StoreError> {
        let Some(checkpoint) = self.checkpoint(consumer).await? else { return Ok(false) };
        Ok(checkpoint.log_id != self.head().await?.log_id)
    }
}

impl TenantStore {
    /// Waits until a consumer has reached a position of this log. Returns `false` after `timeout`.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn wait_for_checkpoint(
        &self,
        consumer: &str,
        log_id: LogId,
        position: u64,
        timeout: Duration,
    ) -> Result<bool, StoreError> {
        let deadline = tokio::time::Instant::now() + timeout;
        // Subscribe before the first read, so that a move in between is not missed.
        let mut moves = self.store().checkpoint_moves();
        let mut waiting = None;
        loop {
            let transaction = self.begin().await?;
            let checkpoint = transaction.checkpoint(consumer).await?;
            transaction.commit().await?;
            if checkpoint.is_some_and(|at| at.log_id == log_id && at.position >= position) {
                return Ok(true);
            }
            // From now on, checkpoints of the tenant that only advance are written at once.
            waiting.get_or_insert_with(|| self.store().0.advances.wait(self.id()));
            let look_again = tokio::time::Instant::now() + CHECKPOINT_POLL_INTERVAL;
            if look_again >= deadline {
                return Ok(false);
            }
            let reached = async {
                loop {
                    match moves.recv().await {
                        Ok(moved) if moved.tenant == self.id() && *moved.consumer == *consumer => return,
                        Ok(_) => {}
                        Err(_) => std::future::pending().await,
                    }
                }
            };
            drop(tokio::time::timeout_at(look_again, reached).await);
        }
    }
}

/// The head of a tenant's log, and a checkpoint that is not at it.
pub(crate) struct Unreached {
    pub(crate) head: Head,
    pub(crate) checkpoint: Option<Checkpoint>,
}

impl Store {
    /// The tenants whose checkpoint of this consumer is not at the head, as one snapshot has them.
    pub(crate) async fn unreached(&self, consumer: &str) -> Result<Vec<Unreached>, StoreError> {
        let rows = get(&self.0.pools.worker)
            .await?
            .query(
                "select h.tenant_id, h.log_id, h.position, h.recorded_at, c.log_id, c.position
                 from heads h left join checkpoints c on c.tenant_id = h.tenant_id and c.consumer = $1
                 where case when c.position is null then h.position > 0
                            else c.position <> h.position or c.log_id <> h.log_id end",
                &[&consumer],
            )
            .await?;
        let unreached = |row: &tokio_postgres::Row| {
            let checkpoint = row
                .get::<_, Option<uuid::Uuid>>(4)
                .map(|log_id| Checkpoint { log_id: LogId(log_id), position: row.get::<_, i64>(5) as u64 });
            Unreached { head: crate::heads::head_from(row), checkpoint }
        };
        Ok(rows.iter().map(unreached).collect())
    }

    /// The checkpoints of all tenants, of one consumer or of all. For the lag metrics.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn checkpoints(
        &self,
        consumer: Option<&str>,
    ) -> Result<Vec<(TenantId, String, Checkpoint)>, StoreError> {
        let rows = get(&self.0.pools.worker)
            .await?
            .query(
                "select tenant_id, consumer, log_id, position from checkpoints where $1::text is null or consumer = $1",
                &[&consumer],
            )
            .await?;
        let checkpoint = |row: &tokio_postgres::Row| {
            let checkpoint = Checkpoint { log_id: LogId(row.get(2)), position: row.get::<_, i64>(3) as u64 };
            (TenantId(row.get(0)), row.get(1), checkpoint)
        };
        Ok(rows.iter().map(checkpoint).collect())
    }
}
