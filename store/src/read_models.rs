//! The state of read models per tenant: which of the two tables is read, a running rebuild, and pauses.
//!
//! Readers look the generation up in the snapshot in which they read the rows, so a switch is atomic for them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use database::{RawRows, Read, Value};
use schemas::engine::{LogId, TenantId, ids};
use tokio::time::Instant;
use uuid::Uuid;

use crate::pauses::{PAUSES_TTL, PausedTenants};
use crate::pools::get;
use crate::{Checkpoint, ReadTable, Store, StoreError, TenantStore, TenantTransaction};

/// The lease of a rebuild: without progress for this time, another rebuild may start.
const REBUILD_LEASE: Duration = Duration::from_secs(15);

/// The state of a read model of a tenant. Without a row, it is at generation 0, not paused and not rebuilt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadModelState {
    /// The tenant.
    pub tenant: TenantId,
    /// The name of the projection's checkpoint, such as `customers.v1`.
    pub projection: String,
    /// How often the table was switched; even generations read the first table, odd ones the second.
    pub generation: u64,
    /// Whether it is paused for this tenant.
    pub paused: bool,
    /// Position and target position of a running rebuild.
    pub rebuild: Option<(u64, u64)>,
}

/// The name of the table of a generation.
pub fn read_table_at(name: &str, generation: u64) -> String {
    if generation.is_multiple_of(2) { name.to_owned() } else { format!("{name}_b") }
}

impl ReadTable {
    /// The name of the table of a generation.
    pub fn at(&self, generation: u64) -> String {
        read_table_at(self.name, generation)
    }
}

impl TenantStore {
    /// The cached generation of a read model, or 0. Verify it in the transaction that reads.
    pub fn cached_generation(&self, projection: &'static str) -> u64 {
        self.store().0.generations.0.get(&(self.id(), projection)).unwrap_or(0)
    }

    /// Caches the generation that a look-up found.
    pub fn cache_generation(&self, projection: &'static str, generation: u64) {
        self.store().0.generations.0.insert((self.id(), projection), generation);
    }
}

/// The generation of a read model.
const GENERATION: &str = "select generation from read_models where tenant_id = $1 and projection = $2";

impl TenantStore {
    /// Runs statements in one round trip, and returns the generation of a read model in the same snapshot.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_with_generation(
        &self,
        projection: &str,
        reads: &[Read<'_>],
    ) -> Result<(u64, Vec<RawRows>), StoreError> {
        let values = [Value::Uuid(self.id().0), Value::Text(projection)];
        let mut group = Vec::with_capacity(reads.len() + 1);
        group.push(Read { sql: GENERATION, values: &values });
        group.extend_from_slice(reads);
        let mut rows = self.read(&group).await?;
        let generation = rows.remove(0).iter().next().map(|row| row.get::<i64>(0)).transpose();
        let generation = generation.map_err(|error| StoreError::corrupt("a generation", error))?;
        Ok((generation.unwrap_or(0) as u64, rows))
    }
}

/// The generations of read models that have one.
const GENERATIONS: &str =
    "select projection, generation from read_models where tenant_id = $1 and projection = any($2)";

impl TenantStore {
    /// [`read_with_generation`](Self::read_with_generation) for several read models: their generations, in this order.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_with_generations(
        &self,
        projections: &[&str],
        reads: &[Read<'_>],
    ) -> Result<(Vec<u64>, Vec<RawRows>), StoreError> {
        let values = [Value::Uuid(self.id().0), Value::TextArray(projections)];
        let mut group = Vec::with_capacity(reads.len() + 1);
        group.push(Read { sql: GENERATIONS, values: &values });
        group.extend_from_slice(reads);
        let mut rows = self.read(&group).await?;
        let mut generations = vec![0; projections.len()];
        for row in rows.remove(0).iter() {
            let found = row.get::<&str>(0).and_then(|name| Ok((name, row.get::<i64>(1)?)));
            let (name, found) = found.map_err(|error| StoreError::corrupt("a generation", error))?;
            let known = generations.iter_mut().zip(projections).filter(|(_, known)| **known == name);
            known.for_each(|(generation, _)| *generation = found as u64);
        }
        Ok((generations, rows))
    }
}

impl TenantTransaction {
    /// The generation of a read model: it selects the table that is read and updated.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn generation(&self, projection: &str) -> Result<u64, StoreError> {
        let row = self.query_opt(GENERATION, &[&self.tenant().0, &projection]).await?;
        Ok(row.map_or(0, |row| row.get::<_, i64>(0) as u64))
    }

    /// The generations of several read models; one that is missing is 0.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn generations(&self, projections: &[&str]) -> Result<HashMap<String, u64>, StoreError> {
        let rows = self
            .query(
                "select projection, generation from read_models where tenant_id = $1 and projection = any($2)",
                &[&self.tenant().0, &projections],
            )
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get::<_, i64>(1) as u64)).collect())
    }

    /// The checkpoint of a consumer, locked until the transaction ends.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer, or when the transaction is read-only.
    pub async fn lock_checkpoint(&self, consumer: &str) -> Result<Option<Checkpoint>, StoreError> {
        let row = self
            .query_opt(
                "select log_id, position from checkpoints where tenant_id = $1 and consumer = $2 for update",
                &[&self.tenant().0, &consumer],
            )
            .await?;
        Ok(row.map(|row| Checkpoint { log_id: LogId(row.get(0)), position: row.get::<_, i64>(1) as u64 }))
    }

    /// Moves a checkpoint to another log. The transaction must have locked it.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer, or when the transaction is read-only.
    pub async fn replace_checkpoint(&self, consumer: &str, to: Checkpoint) -> Result<(), StoreError> {
        self.execute(
            "update checkpoints set log_id = $3, position = $4, updated_at = now()
             where tenant_id = $1 and consumer = $2",
            &[&self.tenant().0, &consumer, &to.log_id.0, &(to.position as i64)],
        )
        .await?;
        Ok(())
    }

    /// Starts the rebuild of a read model. Returns `false` while another rebuild has a valid lease.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer, or when the transaction is read-only.
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

    /// Stores the progress of a rebuild, renews its lease, and locks its row until the transaction ends.
    /// Returns `false` when another rebuild has taken over: then the transaction must not commit.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer, or when the transaction is read-only.
    pub async fn advance_rebuild(
        &self,
        projection: &str,
        token: Uuid,
        position: u64,
        target: u64,
    ) -> Result<bool, StoreError> {
        let ours = self
            .execute_named(
                "update read_models set rebuild_position = :position, rebuild_target = :target,
                                        rebuild_until = now() + :lease_seconds * interval '1 second'
                 where tenant_id = :tenant_id and projection = :projection and rebuild = :token",
                &[
                    ("tenant_id", &self.tenant().0),
                    ("projection", &projection),
                    ("token", &token),
                    ("position", &(position as i64)),
                    ("target", &(target as i64)),
                    ("lease_seconds", &REBUILD_LEASE.as_secs_f64()),
                ],
            )
            .await?;
        Ok(ours == 1)
    }

    /// Ends a rebuild without a switch.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer, or when the transaction is read-only.
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

    /// Switches to the rebuilt table and ends the rebuild. Returns the new generation.
    /// Returns `None` when another rebuild has taken over.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer, or when the transaction is read-only.
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

    /// Pauses or resumes a read model of this tenant. Returns `false` when nothing changed.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer, or when the transaction is read-only.
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
    /// The state of every read model that has a row.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
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

    /// The tenants that a read model is paused for; `None` in the set means all tenants.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn paused_tenants(&self, projection: &str) -> Result<HashSet<Option<TenantId>>, StoreError> {
        Ok(self.read_pauses().await?.remove(projection).unwrap_or_default())
    }

    /// Whether a read model is paused for a tenant, as of a moment ago. All read models of a process share one look.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn is_paused(&self, projection: &str, tenant: TenantId) -> Result<bool, StoreError> {
        let mut known = self.0.pauses.0.lock().await;
        if known.as_ref().is_none_or(|(read_at, _)| read_at.elapsed() >= PAUSES_TTL) {
            let read_at = Instant::now();
            *known = Some((read_at, self.read_pauses().await?));
        }
        let of_projection = known.as_ref().and_then(|(_, paused)| paused.get(projection));
        Ok(of_projection.is_some_and(|paused| paused.contains(&None) || paused.contains(&Some(tenant))))
    }

    async fn read_pauses(&self) -> Result<PausedTenants, StoreError> {
        let rows = get(&self.0.pools.worker)
            .await?
            .query(
                "select projection, tenant_id from read_models where paused_at is not null
                 union all select projection, null from paused_projections",
                &[],
            )
            .await?;
        let mut pauses = PausedTenants::new();
        for row in &rows {
            pauses.entry(row.get(0)).or_default().insert(row.get::<_, Option<Uuid>>(1).map(TenantId));
        }
        Ok(pauses)
    }

    /// Pauses or resumes a read model for all tenants. Returns `false` when nothing changed.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
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
        assert_eq!(
            [0, 1, 2, 3].map(|generation| read_table_at("t_v1", generation)),
            ["t_v1", "t_v1_b", "t_v1", "t_v1_b"]
        );
    }
}
