//! What the relay needs: every tenant's log in position order, and how far it came with each.

use chrono::{DateTime, SubsecRound, Utc};
use schemas::engine::{LogId, RecordedEvent, TenantId, TenantSlug};
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
    pub generation: u32,
    /// Everything up to here is on JetStream.
    pub acked: u64,
    /// Where the log ends.
    pub head: u64,
}

/// A step forward, by compare-and-swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of RelayProgress")]
pub struct RelayMove {
    pub tenant: TenantId,
    pub log_id: LogId,
    pub generation: u32,
    pub from: u64,
    pub to: u64,
}

impl Store {
    /// The progress of every tenant; one that was never relayed is at 0.
    pub async fn relay_progress(&self) -> Result<Vec<RelayProgress>, StoreError> {
        let rows = get(&self.0.pools.relay)
            .await?
            .query(
                "select t.tenant_id, t.slug, h.log_id, coalesce(p.generation, 0),
                        case when p.log_id = h.log_id then p.acked else 0 end, h.position
                 from tenants t join heads h on h.tenant_id = t.tenant_id
                 left join relay_progress p on p.tenant_id = t.tenant_id",
                &[],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(RelayProgress {
                    tenant: TenantId(row.get(0)),
                    slug: TenantSlug::parse(row.get(1))?,
                    log_id: LogId(row.get(2)),
                    generation: row.get::<_, i32>(3) as u32,
                    acked: row.get::<_, Option<i64>>(4).unwrap_or(0) as u64,
                    head: row.get::<_, i64>(5) as u64,
                })
            })
            .collect()
    }

    /// A page of a tenant's log in position order. Only for the relay: everybody else reads through a tenant handle.
    pub async fn relay_events(
        &self,
        tenant: TenantId,
        log_id: LogId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let connection = get(&self.0.pools.relay).await?;
        let statement = connection
            .prepare_cached(&format!(
                "select {} from events where tenant_id = $1 and position > $2 and position <= $3 order by position",
                crate::read::COLUMNS
            ))
            .await?;
        let (from, to) = (after as i64, after.saturating_add(limit as u64) as i64);
        let rows = connection.query(&statement, &[&tenant.0, &from, &to]).await?;
        rows.iter().map(|row| crate::read::event_from(row, 0, log_id)).collect()
    }

    /// Moves the progress of several tenants; returns those that moved. One that did not was moved by another relay.
    pub async fn move_relay(&self, moves: &[RelayMove]) -> Result<Vec<TenantId>, StoreError> {
        let tenants: Vec<Uuid> = moves.iter().map(|moved| moved.tenant.0).collect();
        let logs: Vec<Uuid> = moves.iter().map(|moved| moved.log_id.0).collect();
        let generations: Vec<i32> = moves.iter().map(|moved| moved.generation as i32).collect();
        let from: Vec<i64> = moves.iter().map(|moved| moved.from as i64).collect();
        let to: Vec<i64> = moves.iter().map(|moved| moved.to as i64).collect();
        let connection = get(&self.0.pools.relay).await?;
        let statement = connection
            .prepare_cached(
                "with wanted as (
                     select * from unnest($1::uuid[], $2::uuid[], $3::int4[], $4::int8[], $5::int8[])
                         as w(tenant_id, log_id, generation, acked_before, acked)
                 )
                 insert into relay_progress as p (tenant_id, log_id, generation, acked)
                 select w.tenant_id, w.log_id, w.generation, w.acked from wanted w
                 where w.acked_before = 0
                    or exists (select from relay_progress p where p.tenant_id = w.tenant_id and p.log_id = w.log_id
                               and p.generation = w.generation and p.acked = w.acked_before)
                 order by w.tenant_id
                 on conflict (tenant_id) do update
                 set log_id = excluded.log_id, generation = excluded.generation, acked = excluded.acked
                 where (p.log_id, p.generation, p.acked)
                       = (select w.log_id, w.generation, w.acked_before from wanted w where w.tenant_id = p.tenant_id)
                    or (p.log_id <> excluded.log_id and excluded.generation = p.generation
                        and (select w.acked_before from wanted w where w.tenant_id = p.tenant_id) = 0)
                 returning p.tenant_id",
            )
            .await?;
        let rows = connection.query(&statement, &[&tenants, &logs, &generations, &from, &to]).await?;
        Ok(rows.iter().map(|row| TenantId(row.get(0))).collect())
    }

    /// Compares the stream's creation time with that of last time. `false`: it is another stream, so every generation
    /// was raised and everything is to be published again.
    pub async fn relay_stream_is(&self, created_at: DateTime<Utc>) -> Result<bool, StoreError> {
        // PostgreSQL keeps microseconds, JetStream nanoseconds.
        let created_at = created_at.trunc_subsecs(6);
        let mut connection = get(&self.0.pools.relay).await?;
        let transaction = connection.transaction().await?;
        let before = transaction.query_opt("select created_at from relay_stream for update", &[]).await?;
        let same = before.map(|row| row.get::<_, DateTime<Utc>>(0) == created_at);
        match same {
            Some(true) => {}
            Some(false) => {
                transaction.execute("update relay_stream set created_at = $1", &[&created_at]).await?;
                transaction
                    .execute("update relay_progress set generation = generation + 1, acked = 0", &[])
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
}
