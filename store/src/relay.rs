//! What the relay needs: every tenant's log in position order, and how far it came with each.

use chrono::{DateTime, SubsecRound, Utc};
use schemas::engine::{LogId, RecordedEvent, TenantId, TenantSlug};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::pools::get;
use crate::{Store, StoreError};

/// How far the relay is with one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayProgress {
    /// Whose log.
    pub tenant: TenantId,
    /// The slug, which stands in subjects.
    pub slug: TenantSlug,
    /// Which incarnation of the log.
    pub log_id: LogId,
    /// Part of the message ids: raised for a refill, because an id seen lately is not stored again.
    pub stream_epoch: u32,
    /// Everything up to here is on JetStream.
    pub acked: u64,
    /// Whether the stream holds one filling of this generation, from its beginning on, with nothing filled in later.
    pub is_single_epoch: bool,
    /// Where the log ends.
    pub head: u64,
    /// How many messages had left the stream, up to which loss nothing of this is missing; `None`: it is in doubt.
    pub removed: Option<u64>,
    /// The message of this tenant that stands farthest in the stream.
    pub acked_message: AckedMessage,
    /// Up to this place of the stream a lower position may stand behind a higher one: sending was interrupted before it.
    pub out_of_order_until: u64,
}

/// Where in the stream a position of a log stands; sequence 0 where nothing does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct AckedMessage {
    pub sequence: u64,
    pub position: u64,
}

impl AckedMessage {
    /// The mark that stands farther in the stream.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        if other.sequence > self.sequence { other } else { self }
    }
}

/// A step forward, by compare-and-swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of RelayProgress")]
pub struct RelayMove {
    pub tenant: TenantId,
    pub log_id: LogId,
    pub stream_epoch: u32,
    pub from: u64,
    pub to: u64,
    pub removed: u64,
    pub acked_message: AckedMessage,
    pub out_of_order_until: u64,
}

impl Store {
    /// The progress of every tenant; one that was never relayed is at 0.
    pub async fn relay_progress(&self) -> Result<Vec<RelayProgress>, StoreError> {
        self.progress_of(None).await
    }

    /// The progress of one tenant; `None` where there is no such tenant.
    pub async fn relay_progress_of(&self, tenant: TenantId) -> Result<Option<RelayProgress>, StoreError> {
        Ok(self.progress_of(Some(tenant)).await?.pop())
    }

    async fn progress_of(&self, tenant: Option<TenantId>) -> Result<Vec<RelayProgress>, StoreError> {
        let connection = get(&self.0.pools.relay).await?;
        let statement = "select t.tenant_id, t.slug, h.log_id, coalesce(p.generation, 0), h.position,
                        case when p.log_id = h.log_id then p.acked else 0 end,
                        case when p.log_id = h.log_id then p.removed end,
                        case when p.log_id = h.log_id then p.mark_sequence else 0 end,
                        case when p.log_id = h.log_id then p.mark_position else 0 end,
                        case when p.log_id = h.log_id then p.disordered_to else 0 end,
                        coalesce(p.generation in (0, p.stream_generation), true)
                 from tenants t join heads h on h.tenant_id = t.tenant_id
                 left join relay_progress p on p.tenant_id = t.tenant_id
                 where $1::uuid is null or t.tenant_id = $1";
        let rows = connection.query(statement, &[&tenant.map(|tenant| tenant.0)]).await?;
        rows.iter().map(progress_from).collect()
    }

    /// A page of a tenant's log in position order; nothing where the tenant has another log by now. Only for the relay:
    /// everybody else reads through a tenant handle.
    pub async fn relay_events(
        &self,
        tenant: TenantId,
        log_id: LogId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let connection = get(&self.0.pools.relay).await?;
        let statement = format!(
            "select {} from events where tenant_id = $1 and position > $2 and position <= $3
                   and exists (select from heads h where h.tenant_id = $1 and h.log_id = $4)
                 order by position",
            crate::read::COLUMNS
        );
        let (from, to) = (after as i64, after.saturating_add(limit as u64) as i64);
        let rows = connection.query(&statement, &[&tenant.0, &from, &to, &log_id.0]).await?;
        rows.iter().map(|row| crate::read::event_from(row, 0, log_id)).collect()
    }

    /// Events of a tenant's log at these positions, in position order; nothing where the tenant has another log by now.
    /// Only for the relay.
    pub async fn relay_events_at(
        &self,
        tenant: TenantId,
        log_id: LogId,
        positions: &[u64],
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let connection = get(&self.0.pools.relay).await?;
        let statement = format!(
            "select {} from events where tenant_id = $1 and position = any($2)
                   and exists (select from heads h where h.tenant_id = $1 and h.log_id = $3)
                 order by position",
            crate::read::COLUMNS
        );
        let positions: Vec<i64> = positions.iter().map(|position| *position as i64).collect();
        let rows = connection.query(&statement, &[&tenant.0, &positions, &log_id.0]).await?;
        rows.iter().map(|row| crate::read::event_from(row, 0, log_id)).collect()
    }

    /// Moves the progress of several tenants; returns those that moved. One that did not was moved by another relay, or
    /// a refill has begun.
    pub async fn move_relay(&self, moves: &[RelayMove]) -> Result<Vec<TenantId>, StoreError> {
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
        let connection = get(&self.0.pools.relay).await?;
        let statement = "with wanted as (
                     select * from unnest($1::uuid[], $2::uuid[], $3::int4[], $4::int8[], $5::int8[], $6::int8[],
                                          $7::int8[], $8::int8[], $9::int8[])
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
            .query(
                statement,
                &[&tenants, &logs, &generations, &from, &to, &removed, &sequences, &positions, &disordered],
            )
            .await?;
        Ok(rows.iter().map(|row| TenantId(row.get(0))).collect())
    }

    /// When the stream that the progress speaks of was created.
    pub async fn relay_stream_created(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        let connection = get(&self.0.pools.relay).await?;
        let row = connection.query_opt("select created_at from relay_stream", &[]).await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Compares the stream's creation time with that of last time. `false`: it is another stream, from which `removed`
    /// messages have gone, so every generation was raised and everything is to be published again.
    pub async fn check_relay_stream(
        &self,
        created_at: DateTime<Utc>,
        removed: u64,
    ) -> Result<bool, StoreError> {
        // PostgreSQL keeps microseconds, JetStream nanoseconds.
        let created_at = created_at.trunc_subsecs(6);
        let transaction = get(&self.0.pools.relay).await?;
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

    /// The stream has gone back to an earlier state: raises every generation and puts every tenant in doubt. `farthest`
    /// is the farthest mark that was read, so that of several relays that notice one acts.
    pub async fn reset_after_stream_regression(&self, farthest: u64) -> Result<bool, StoreError> {
        let transaction = get(&self.0.pools.relay).await?;
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

    /// Raises a tenant's generation for a refill, and sets back to where its prefix on the stream ends: what is beyond
    /// `acked` is published again in the ordinary way. `None` when the progress is no longer as `before`.
    pub async fn begin_republish(
        &self,
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
        let changed = self.replace_progress(before, &next).await?;
        Ok(changed.then_some(next))
    }

    /// Raises a tenant's generation where it still is this one, and puts it in doubt.
    pub async fn bump_stream_epoch(
        &self,
        tenant: TenantId,
        log_id: LogId,
        stream_epoch: u32,
    ) -> Result<(), StoreError> {
        get(&self.0.pools.relay)
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

    /// Notes that nothing up to `acked` is missing as of `removed` messages that left the stream. `false` when the
    /// progress is no longer as `before`.
    pub async fn end_republish(
        &self,
        before: &RelayProgress,
        removed: u64,
        acked_message: AckedMessage,
    ) -> Result<bool, StoreError> {
        let next = RelayProgress { removed: Some(removed), acked_message, ..before.clone() };
        self.replace_progress(before, &next).await
    }

    async fn replace_progress(
        &self,
        before: &RelayProgress,
        next: &RelayProgress,
    ) -> Result<bool, StoreError> {
        let removed = |progress: &RelayProgress| progress.removed.map_or(-1, |removed| removed as i64);
        let changed = get(&self.0.pools.relay)
            .await?
            .execute(
                "update relay_progress
                 set generation = $5, acked = $6, removed = $7, mark_sequence = $8, mark_position = $9,
                     disordered_to = $11
                 where tenant_id = $1 and log_id = $2 and (generation, acked) = ($3, $4) and removed = $10",
                &[
                    &before.tenant.0,
                    &before.log_id.0,
                    &(before.stream_epoch as i32),
                    &(before.acked as i64),
                    &(next.stream_epoch as i32),
                    &(next.acked as i64),
                    &removed(next),
                    &(next.acked_message.sequence as i64),
                    &(next.acked_message.position as i64),
                    &removed(before),
                    &(next.out_of_order_until as i64),
                ],
            )
            .await?;
        Ok(changed == 1)
    }
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
