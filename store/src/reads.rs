//! Reads of a tenant's rows in one round trip.

use database::{RawRows, Read, Value};
use schemas::engine::LogId;
use uuid::Uuid;

use crate::heads::{HEAD, field, head_in};
use crate::{Checkpoint, Head, StoreError, TenantStore};

/// Ends with the transaction, and so with the group.
const SET_TENANT: &str = "select set_config('annals.tenant', $1, true)";
const CHECKPOINTS: &str =
    "select consumer, log_id, position from checkpoints where tenant_id = $1 and consumer = any($2)";

impl TenantStore {
    /// Runs statements in one read-only transaction with one snapshot, in one round trip. Returns the rows of each one.
    ///
    /// The texts stay prepared on each connection, so use few different texts.
    /// A group may run again after a broken connection.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] when too many reads wait for a connection.
    /// [`StoreError::Read`] when the database does not answer, or refuses a statement.
    pub async fn read(&self, reads: &[Read<'_>]) -> Result<Vec<RawRows>, StoreError> {
        let tenant = self.id().0;
        let mut text = Uuid::encode_buffer();
        let setting = [Value::Text(tenant.hyphenated().encode_lower(&mut text))];
        let mut group = Vec::with_capacity(reads.len() + 1);
        group.push(Read { sql: SET_TENANT, values: &setting });
        group.extend_from_slice(reads);
        let mut rows = self.store().0.pools.reads.read(tenant, &group).await?;
        rows.remove(0);
        Ok(rows)
    }

    /// Runs one statement like [`read`](Self::read).
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_one(&self, sql: &str, values: &[Value<'_>]) -> Result<RawRows, StoreError> {
        Ok(self.read(&[Read { sql, values }]).await?.remove(0))
    }

    /// The head of the log, and the checkpoints of these consumers in the same snapshot.
    /// A consumer has none before its first move.
    ///
    /// # Errors
    /// As [`read`](Self::read). [`StoreError::TenantUnknown`] when the tenant does not exist.
    pub async fn head_and_checkpoints(
        &self,
        consumers: &[&str],
    ) -> Result<(Head, Vec<Option<Checkpoint>>), StoreError> {
        let values = [Value::Uuid(self.id().0), Value::TextArray(consumers)];
        let rows = self
            .read(&[Read { sql: HEAD, values: &values[..1] }, Read { sql: CHECKPOINTS, values: &values }])
            .await?;
        let mut found = vec![None; consumers.len()];
        for row in rows[1].iter() {
            let name: &str = field(row, 0)?;
            let checkpoint =
                Checkpoint { log_id: LogId(field(row, 1)?), position: field::<i64>(row, 2)? as u64 };
            for (place, _) in found.iter_mut().zip(consumers).filter(|(_, consumer)| **consumer == name) {
                *place = Some(checkpoint);
            }
        }
        Ok((head_in(self.id(), &rows[0])?, found))
    }
}
