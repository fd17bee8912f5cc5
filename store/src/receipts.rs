//! Receipts of appends and requests by idempotency key: a repeat gets the first answer (`docs/adr/0027`).
//!
//! The append worker writes receipts of commands with their events; `requests` writes those of requests without events.
//! They share one table, so that a key is used for one purpose only.

use std::sync::Weak;
use std::time::Duration;

use schemas::engine::TenantId;
use tokio_postgres::Row;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::pools::get;
use crate::store::Inner;
use crate::{Causes, Receipt, Store, StoreError, TenantStore, TenantTransaction};

/// How long the receipt of a command without effect is kept.
pub const WITHOUT_EFFECT_RETENTION: Duration = Duration::from_hours(24 * 30);
/// Maximum expiring receipts per tenant; beyond, the oldest are removed first.
pub const EXPIRING_RECEIPTS_MAX: u64 = 100_000;
/// Interval between two removals of expired receipts.
const SWEEP_INTERVAL: Duration = Duration::from_mins(10);
/// Maximum rows per delete statement.
const REMOVAL_BATCH_MAX: i64 = 10_000;

/// The idempotency key of an append or a request. It leaves a receipt, which identifies a repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyClaim {
    /// The receipt key, unique per tenant: derived from the idempotency key and the principal.
    pub key: Uuid,
    /// The [`RequestDigest`](crate::RequestDigest) of the request. The same key with another digest is rejected.
    pub digest: [u8; 32],
    /// The key as the client sent it. Older receipts are stored under it.
    pub plain_key: Option<Uuid>,
}

impl IdempotencyClaim {
    /// A claim to this key.
    pub fn new(key: Uuid, digest: [u8; 32]) -> Self {
        Self { key, digest, plain_key: None }
    }

    /// The keys under which a receipt may be stored.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Uuid> {
        std::iter::once(self.key).chain(self.plain_key)
    }
}

/// How the key of a receipt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReceiptFormat {
    /// The key is the one that the client sent.
    PlainKey,
    /// The key is derived from the client's and the principal.
    DerivedKey,
}

impl ReceiptFormat {
    fn parse(number: i16) -> Result<Self, StoreError> {
        match number {
            1 => Ok(Self::PlainKey),
            2 => Ok(Self::DerivedKey),
            other => Err(StoreError::corrupt("a receipt's format", other)),
        }
    }
}

/// A row of `receipts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredReceipt {
    pub(crate) format: ReceiptFormat,
    pub(crate) digest: [u8; 32],
    /// The result of an append; `None` for a request without events.
    pub(crate) receipt: Option<Receipt>,
}

/// The earlier use of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyUse {
    /// Not used.
    Unused,
    /// The same command, with its receipt.
    Repeat(Receipt),
    /// Another command or request.
    Other,
}

impl StoredReceipt {
    /// Whether a receipt that was found under `found_under` belongs to the claim.
    /// The plain key of one principal may equal the receipt key of another.
    pub(crate) fn is_of(&self, claim: &IdempotencyClaim, found_under: Uuid) -> bool {
        found_under == claim.key || self.format == ReceiptFormat::PlainKey
    }

    /// Compares the receipt with a claim to its key.
    pub(crate) fn key_use(&self, claim: &IdempotencyClaim) -> KeyUse {
        match &self.receipt {
            Some(receipt) if self.digest == claim.digest => KeyUse::Repeat(receipt.clone()),
            _ => KeyUse::Other,
        }
    }

    /// Reads [`COLUMNS`] starting at column `first`.
    pub(crate) fn from_row(row: &Row, first: usize) -> Result<Self, StoreError> {
        let digest: [u8; 32] = row
            .get::<_, &[u8]>(first)
            .try_into()
            .map_err(|_| StoreError::corrupt("a receipt's digest", "wrong length"))?;
        let appended = !row.get::<_, &str>(first + 1).is_empty();
        Ok(Self {
            format: ReceiptFormat::parse(row.get(first + 6))?,
            digest,
            receipt: appended.then(|| crate::read::receipt_from(row, first + 1)).transpose()?,
        })
    }
}

/// Columns of `receipts r` and `heads h`. The stream is empty for a request without events.
pub(crate) const COLUMNS: &str =
    "r.digest, r.stream, r.version, r.first_position, r.count, h.log_id, r.format";

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
    pub async fn key_use(&self, claim: &IdempotencyClaim) -> Result<KeyUse, StoreError> {
        let transaction = self.begin().await?;
        let stored = find(&transaction, claim).await?;
        transaction.commit().await?;
        Ok(stored.map_or(KeyUse::Unused, |stored| stored.key_use(claim)))
    }

    /// Removes expired receipts and answers, and the oldest expiring receipts beyond `receipts_max`.
    /// Returns the number of removed rows; call it again until it returns 0.
    pub async fn expire_receipts(&self, receipts_max: u64) -> Result<u64, StoreError> {
        let transaction = self.begin_worker_transaction().await?;
        let tenant = self.id().0;
        let receipts = transaction
            .execute(
                "delete from receipts where tenant_id = $1 and command_id in (
                     select r.command_id from receipts r where r.tenant_id = $1 and r.expires_at is not null
                       and (r.expires_at < now()
                            or r.expires_at <= (select n.expires_at from receipts n
                                                where n.tenant_id = $1 and n.expires_at is not null
                                                order by n.expires_at desc offset $2 limit 1))
                     order by r.expires_at limit $3)",
                &[&tenant, &(receipts_max as i64), &REMOVAL_BATCH_MAX],
            )
            .await?;
        let answers = transaction
            .execute(
                "delete from request_answers where tenant_id = $1 and receipt_key in (
                     select a.receipt_key from request_answers a
                     where a.tenant_id = $1 and a.expires_at < now() order by a.expires_at limit $2)",
                &[&tenant, &REMOVAL_BATCH_MAX],
            )
            .await?;
        transaction.commit().await?;
        Ok(receipts + answers)
    }
}

/// Removes expired receipts periodically, until the store is stopped or dropped.
/// Every process does this; concurrent removals are harmless.
pub(crate) async fn sweep(store: Weak<Inner>, stop: CancellationToken) {
    // A random first pause, so that processes that start together do not all remove at once.
    let mut pause = SWEEP_INTERVAL.mul_f64(rand::random());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = SWEEP_INTERVAL;
        let Some(store) = store.upgrade().map(Store) else { return };
        tokio::select! {
            () = stop.cancelled() => return,
            swept = store.expire_receipts() => if let Err(error) = swept {
                tracing::warn!(error = %Causes(&error), "receipts that have ended could not be removed");
            }
        }
    }
}

impl Store {
    /// Removes expired receipts and answers of all tenants.
    pub async fn expire_receipts(&self) -> Result<(), StoreError> {
        for tenant in self.tenants_with_expiring_receipts().await? {
            while self.tenant(tenant).expire_receipts(EXPIRING_RECEIPTS_MAX).await? > 0 {}
        }
        Ok(())
    }

    /// The tenants with expiring receipts; a recursive query that reads one index entry per tenant.
    async fn tenants_with_expiring_receipts(&self) -> Result<Vec<TenantId>, StoreError> {
        let client = get(&self.0.pools.worker).await?;
        let rows = client
            .query(
                "with recursive tenant(tenant_id) as (
                     (select tenant_id from receipts where expires_at is not null order by tenant_id limit 1)
                     union all
                     select (select r.tenant_id from receipts r
                             where r.expires_at is not null and r.tenant_id > t.tenant_id
                             order by r.tenant_id limit 1)
                     from tenant t where t.tenant_id is not null
                 ) select tenant_id from tenant where tenant_id is not null",
                &[],
            )
            .await?;
        Ok(rows.iter().map(|row| TenantId(row.get(0))).collect())
    }
}
