//! Turns: what only one at a time may do for a tenant, in whichever process.

use crate::{StoreError, TenantStore, TenantTransaction};

/// Somebody's turn. It ends with the value, or with the connection behind it.
pub struct Turn(TenantTransaction);

impl TenantStore {
    /// The turn at something, unless another has it now.
    pub async fn try_turn(&self, what: &str) -> Result<Option<Turn>, StoreError> {
        // Of connections for turns alone: the work of a turn needs a tenant's and a projector's besides.
        let transaction = TenantTransaction::begin(&self.store().0.pools.turns, self.id()).await?;
        let name = format!("{what}/{}", self.id());
        let row = transaction
            .query_opt("select pg_try_advisory_xact_lock(hashtextextended($1, 0))", &[&name])
            .await?;
        if row.is_some_and(|row| row.get(0)) {
            return Ok(Some(Turn(transaction)));
        }
        transaction.commit().await?;
        Ok(None)
    }
}

impl Turn {
    /// Lets the next one have it.
    pub async fn end(self) -> Result<(), StoreError> {
        self.0.commit().await
    }
}
