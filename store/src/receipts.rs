//! Receipts of appends and requests by idempotency key: a repeat gets the first answer (`docs/adr/0027`).
//!
//! The append worker writes receipts of commands with their events; `requests` writes those of requests without events.
//! They share one table, so that a key is used for one purpose only.

use uuid::Uuid;

use crate::stored_receipt::{COLUMNS, IdempotencyClaim, KeyUse, StoredReceipt};
use crate::{Store, StoreError, TenantStore, TenantTransaction, receipt_sweep};

/// Finds the receipt of a claim.
pub(crate) async fn find(
    transaction: &TenantTransaction,
    claim: &IdempotencyClaim,
) -> Result<Option<StoredReceipt>, StoreError> {
    let keys: Vec<Uuid> = claim.keys().collect();
    let rows = transaction
        .query(
            &format!(
                "select {COLUMNS}, r.command_id from receipts r join heads h on h.tenant_id = r.tenant_id
                 where r.tenant_id = $1 and r.command_id = any($2)"
            ),
            &[&transaction.tenant().0, &keys],
        )
        .await?;
    for row in &rows {
        let stored = StoredReceipt::from_row(row, 0)?;
        if stored.is_of(claim, row.get(7)) {
            return Ok(Some(stored));
        }
    }
    Ok(None)
}

impl TenantStore {
    /// The earlier use of a claim's key.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    /// [`StoreError::Corrupt`] when a stored receipt is invalid.
    pub async fn key_use(&self, claim: &IdempotencyClaim) -> Result<KeyUse, StoreError> {
        let transaction = self.begin().await?;
        let stored = find(&transaction, claim).await?;
        transaction.commit().await?;
        Ok(stored.map_or(KeyUse::Unused, |stored| stored.key_use(claim)))
    }

    /// Removes expired receipts and answers, and the oldest expiring receipts beyond `receipts_max`.
    /// Returns the number of removed rows; call it again until it returns 0.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn expire_receipts(&self, receipts_max: u64) -> Result<u64, StoreError> {
        receipt_sweep::expire(&self.store().0.pools, self.id(), receipts_max).await
    }
}

impl Store {
    /// Removes expired receipts and answers of all tenants.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer. What was removed before the error stays removed.
    pub async fn expire_receipts(&self) -> Result<(), StoreError> {
        receipt_sweep::expire_all(&self.0.pools).await
    }
}
