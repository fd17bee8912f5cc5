//! Which of its two tables serves a read model of a tenant, who is rebuilding the other one, and what is paused.
//!
//! Readers look the generation up in the snapshot in which they read the rows, so a switch is one instant for them.

use std::collections::HashSet;
use std::time::Duration;

use moka::sync::Cache;
use schemas::engine::{LogId, TenantId, ids};
use uuid::Uuid;

use crate::pools::get;
use crate::{Checkpoint, ReadTable, Store, StoreError, TenantStore, TenantTransaction};

/// Which generation each read model was at when a store last looked: what to try first, never an answer.
pub(crate) struct Generations(Cache<(TenantId, &'static str), u64>);

impl Default for Generations {
    fn default() -> Self {
        Self(Cache::new(100_000))
    }
}

/// How long a rebuild that says nothing is believed to be alive.
const REBUILD_LEASE: Duration = Duration::from_secs(15);

/// A read model of a tenant, as operators see it. One that has no row is at generation 0 with nothing under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadModelState {
    /// Whose.
    pub tenant: TenantId,
    /// The name of its checkpoint, such as `customers.v1`.
    pub projection: String,
    /// How often it has been switched.
    pub generation: u64,
    /// Whether it is paused for this tenant.
    pub paused: bool,
    /// How far a rebuild is and where it has to get, where one is under way.
    pub rebuild: Option<(u64, u64)>,
}

impl ReadTable {
    /// The table that a generation stands in.
    pub fn at(&self, generation: u64) -> String {
        if generation.is_multiple_of(2) { self.name.to_owned() } else { format!("{}_b", self.name) }
    }
}

impl TenantStore {
    /// The generation that a read model was at when this store last looked: what to try first.
    pub fn cached_generation(&self, projection: &'static str) -> u64 {
        self.store().0.generations.0.get(&(self.id(), projection)).unwrap_or(0)
    }

    /// Notes what a look-up has found.
    pub fn cache_generation(&self, projection: &'static str, generation: u64) {
        self.store().0.generations.0.insert((self.id(), projection), generation);
    }
}

impl TenantTransaction {
    /// The generation of a read model: which of its tables is read and kept.
    pub async fn generation(&self, projection: &str) -> Result<u64, StoreError> {
        let row = self
            .query_opt(
                "select generation from read_models where tenant_id = $1 and projection = $2",
                &[&self.tenant().0, &projection],
            )
            .await?;
        Ok(row.map_or(0, |row| row.get::<_, i64>(0) as u64))
    }

    /// The checkpoint of a consumer, locked until the transaction ends.
    pub async fn lock_checkpoint(&self, consumer: &str) -> Result<Option<Checkpoint>, StoreError> {
        let row = self
            .query_opt(
                "select log_id, position from checkpoints where tenant_id = $1 and consumer = $2 for update",
                &[&self.tenant().0, &consumer],
            )
            .await?;
        Ok(row.map(|row| Checkpoint { log_id: LogId(row.get(0)), position: row.get::<_, i64>(1) as u64 }))
    }

    /// Puts a checkpoint that is locked by this transaction onto another log.
    pub async fn replace_checkpoint(&self, consumer: &str, to: Checkpoint) -> Result<(), StoreError> {
        self.execute(
            "update checkpoints set log_id = $3, position = $4, updated_at = now()
             where tenant_id = $1 and consumer = $2",
            &[&self.tenant().0, &consumer, &to.log_id.0, &(to.position as i64)],
        )
        .await?;
        Ok(())
    }

    /// Takes the rebuild of a read model. `false` while another rebuild of it is alive.
    pub async fn claim_rebuild(&self, projection: &str, token: Uuid) -> Result<bool, StoreError> {
        let claimed = self
            .execute(
                "insert into read_models as m (tenant_id, projection, rebuild, rebuild_until, rebuild_position,
                                               rebuild_target)
                 values ($1, $2, $3, now() + $4 * interval '1 second', 0, 0)
                 on conflict (tenant_id, projection) do update
                 set rebuild = excluded.rebuild, rebuild_until = excluded.rebuild_until, rebuild_position = 0,
                     rebuild_target = 0
                 where m.rebuild is null or m.rebuild_until < now()",
                &[&self.tenant().0, &projection, &token, &REBUILD_LEASE.as_secs_f64()],
            )
            .await?;
        Ok(claimed == 1)
    }

    /// Notes how far a rebuild is and that it is alive, and locks it until the transaction ends. `false` when it has been
    /// given to somebody else: this transaction must not commit.
    pub async fn advance_rebuild(
        &self,
        projection: &str,
        token: Uuid,
        position: u64,
        target: u64,
    ) -> Result<bool, StoreError> {
        let ours = self
            .execute(
                "update read_models set rebuild_position = $4, rebuild_target = $5,
                                        rebuild_until = now() + $6 * interval '1 second'
                 where tenant_id = $1 and projection = $2 and rebuild = $3",
                &[
                    &self.tenant().0,
                    &projection,
                    &token,
                    &(position as i64),
                    &(target as i64),
                    &REBUILD_LEASE.as_secs_f64(),
                ],
            )
            .await?;
        Ok(ours == 1)
    }

    /// Ends a rebuild without a switch.
    pub async fn release_rebuild(&self, projection: &str, token: Uuid) -> Result<(), StoreError> {
        self.execute(
            "update read_models
             set rebuild = null, rebuild_until = null, rebuild_position = null, rebuild_target = null
             where tenant_id = $1 and projection = $2 and rebuild = $3",
            &[&self.tenant().0, &projection, &token],
        )
        .await?;
        Ok(())
    }

    /// Ends a rebuild: the other table is read and kept from the commit on. Returns the generation.
    pub async fn switch_read_model(&self, projection: &str, token: Uuid) -> Result<Option<u64>, StoreError> {
        let row = self
            .query_opt(
                "update read_models
                 set generation = generation + 1, switched_at = now(), rebuild = null, rebuild_until = null,
                     rebuild_position = null, rebuild_target = null
                 where tenant_id = $1 and projection = $2 and rebuild = $3
                 returning generation",
                &[&self.tenant().0, &projection, &token],
            )
            .await?;
        Ok(row.map(|row| row.get::<_, i64>(0) as u64))
    }

    /// Pauses a read model of this tenant, or lets it go on. `false` when it was so already.
    pub async fn set_paused(&self, projection: &str, paused: bool) -> Result<bool, StoreError> {
        let changed = if paused {
            self.execute(
                "insert into read_models as m (tenant_id, projection, paused_at) values ($1, $2, now())
                 on conflict (tenant_id, projection) do update set paused_at = now() where m.paused_at is null",
                &[&self.tenant().0, &projection],
            )
            .await?
        } else {
            self.execute(
                "update read_models set paused_at = null
                 where tenant_id = $1 and projection = $2 and paused_at is not null",
                &[&self.tenant().0, &projection],
            )
            .await?
        };
        Ok(changed == 1)
    }
}

impl Store {
    /// Every read model of which there is something to say.
    pub async fn read_models(&self) -> Result<Vec<ReadModelState>, StoreError> {
        let rows = get(&self.0.pools.worker)
            .await?
            .query(
                "select tenant_id, projection, generation, paused_at is not null, rebuild_position, rebuild_target,
                        coalesce(rebuild_until > now(), false)
                 from read_models",
                &[],
            )
            .await?;
        let state = |row: &tokio_postgres::Row| {
            let number = |column| row.get::<_, Option<i64>>(column).unwrap_or(0) as u64;
            ReadModelState {
                tenant: TenantId(row.get(0)),
                projection: row.get(1),
                generation: number(2),
                paused: row.get(3),
                rebuild: row.get::<_, bool>(6).then(|| (number(4), number(5))),
            }
        };
        Ok(rows.iter().map(state).collect())
    }

    /// Whom a read model is paused for: `None` in the set stands for all.
    pub async fn paused_tenants(&self, projection: &str) -> Result<HashSet<Option<TenantId>>, StoreError> {
        let rows = get(&self.0.pools.worker)
            .await?
            .query(
                "select tenant_id from read_models where projection = $1 and paused_at is not null
                 union all select null from paused_projections where projection = $1",
                &[&projection],
            )
            .await?;
        Ok(rows.iter().map(|row| row.get::<_, Option<Uuid>>(0).map(TenantId)).collect())
    }

    /// Pauses a read model for all tenants, or lets it go on. `false` when it was so already.
    pub async fn set_paused_for_all(&self, projection: &str, paused: bool) -> Result<bool, StoreError> {
        let sql = if paused {
            "insert into paused_projections (projection) values ($1) on conflict do nothing"
        } else {
            "delete from paused_projections where projection = $1"
        };
        Ok(self.0.pools.projector.get(ids::PLATFORM).await?.execute(sql, &[&projection]).await? == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_take_turns_between_two_tables() {
        let table = ReadTable { name: "t_v1", columns: "id uuid", key: "id", indexes: &[] };
        assert_eq!([0, 1, 2, 3].map(|generation| table.at(generation)), ["t_v1", "t_v1_b", "t_v1", "t_v1_b"]);
    }
}
