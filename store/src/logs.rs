//! Replaces the log of a tenant after the database was restored to an earlier state.
//!
//! Positions that consumers hold may then refer to lost events.
//! The kept events continue under a new log id (`docs/adr/0008`), so that old positions never match new events.

mod cited_note;
pub(crate) mod regression;
mod replacement;

use schemas::engine::{Actor, LogId, TenantId, TenantSlug};
use uuid::Uuid;

use self::regression::{SeenPositions, replace_regressed_logs, replacement_from};
use self::replacement::{COLUMNS, replace_all, replaced_from};
use crate::pools::get;
use crate::{Store, StoreError, TenantStore};

pub use self::replacement::{ReplacedLog, Replacement};

/// The last event of a log that is known to have been published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedEvent {
    /// The slug of the tenant.
    pub slug: TenantSlug,
    /// The log of the event.
    pub log_id: LogId,
    /// The position of the event.
    pub position: u64,
    /// The id of the event.
    pub event_id: Uuid,
}

/// The log ids by position. The leaf of an event keeps the log id under which it was written, even after a replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogIds {
    current: LogId,
    /// Earlier log ids with their last positions, ascending.
    replaced: Vec<(u64, LogId)>,
}

impl LogIds {
    /// The log id under which the event at this position was written.
    pub fn at(&self, position: u64) -> LogId {
        let after = self.replaced.partition_point(|(last, _)| *last < position);
        self.replaced.get(after).map_or(self.current, |(_, log_id)| *log_id)
    }
}

impl Store {
    /// Replaces logs, each in its own transaction, and returns the replaced ones.
    /// Skips a log that is not current any more, and one that does not end before `ends_before`.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer. Logs that were replaced before the error stay replaced.
    pub async fn replace_logs(
        &self,
        wanted: &[Replacement],
        reason: &str,
        actor: &Actor,
    ) -> Result<Vec<ReplacedLog>, StoreError> {
        replace_all(&self.0.pools.logins, &self.0.signals, &self.0.event_ids, wanted, reason, actor).await
    }

    /// Replaces the logs that end before a position at which an event was seen.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer. Logs that were replaced before the error stay replaced.
    pub async fn replace_logs_ending_before(
        &self,
        seen: impl Iterator<Item = (TenantId, LogId, u64)> + Send,
    ) -> Result<(), StoreError> {
        let seen = SeenPositions::new(seen);
        let behind = get(&self.0.pools.worker)
            .await?
            .query(SeenPositions::REGRESSED_HEADS, &seen.parameters())
            .await?;
        replace_regressed_logs(&self.0.pools.logins, &self.0.signals, &self.0.event_ids, &behind).await
    }

    /// All replaced logs of all tenants, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn replaced_logs(&self) -> Result<Vec<ReplacedLog>, StoreError> {
        let statement = format!("select {COLUMNS} from replaced_logs order by replaced_at, tenant_id");
        let rows = get(&self.0.pools.worker).await?.query(&statement, &[]).await?;
        Ok(rows.iter().map(replaced_from).collect())
    }

    /// Finds current logs that lack one of these published events, because the database has lost it.
    /// Events are published only after their commit, so a healthy database has all of them.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn find_lost_logs(&self, published: &[PublishedEvent]) -> Result<Vec<Replacement>, StoreError> {
        let slugs: Vec<&str> = published.iter().map(|event| event.slug.as_str()).collect();
        let logs: Vec<Uuid> = published.iter().map(|event| event.log_id.0).collect();
        let positions: Vec<i64> = published.iter().map(|event| event.position as i64).collect();
        let events: Vec<Uuid> = published.iter().map(|event| event.event_id).collect();
        let rows = get(&self.0.pools.relay)
            .await?
            .query(
                "select t.tenant_id, h.log_id, w.position
                 from unnest($1::text[], $2::uuid[], $3::int8[], $4::uuid[]) as w(slug, log_id, position, event_id)
                 join tenants t on t.slug = w.slug
                 join heads h on h.tenant_id = t.tenant_id and h.log_id = w.log_id
                 where not exists (select from events e where e.tenant_id = t.tenant_id and e.position = w.position
                                   and e.event_id = w.event_id)
                 order by t.tenant_id",
                &[&slugs, &logs, &positions, &events],
            )
            .await?;
        Ok(rows.iter().map(replacement_from).collect())
    }
}

impl TenantStore {
    /// The log ids of the tenant by position.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    /// [`StoreError::TenantUnknown`] when the tenant does not exist.
    pub async fn log_ids(&self) -> Result<LogIds, StoreError> {
        let transaction = self.begin_snapshot().await?;
        let current = transaction.head().await?.log_id;
        let statement =
            "select last_position, log_id from replaced_logs where tenant_id = $1 order by last_position";
        let rows = transaction.query(statement, &[&self.id().0]).await?;
        transaction.commit().await?;
        let replaced = rows.iter().map(|row| (row.get::<_, i64>(0) as u64, LogId(row.get(1)))).collect();
        Ok(LogIds { current, replaced })
    }

    /// The replaced log of this tenant with this log id.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn replaced_log(&self, log_id: LogId) -> Result<Option<ReplacedLog>, StoreError> {
        let statement = format!("select {COLUMNS} from replaced_logs where tenant_id = $1 and log_id = $2");
        let transaction = self.begin().await?;
        let row = transaction.query_opt(&statement, &[&self.id().0, &log_id.0]).await?;
        transaction.commit().await?;
        Ok(row.as_ref().map(replaced_from))
    }
}
