//! Reads of a tenant's rows in one round trip.

use database::{RawRows, Read, Value};
use uuid::Uuid;

use crate::{StoreError, TenantStore};

/// Ends with the transaction, and so with the group.
const SET_TENANT: &str = "select set_config('annals.tenant', $1, true)";

impl TenantStore {
    /// Runs statements in one read-only transaction with one snapshot, in one round trip. Returns the rows of each one.
    ///
    /// The texts stay prepared on each connection, so use few different texts.
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
}
