//! A stored receipt, and the idempotency key that finds it.

use std::time::Duration;

use schemas::engine::{LogId, StreamName};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::StoreError;
use crate::append::Receipt;

/// How long the receipt of a command without effect is kept.
pub const WITHOUT_EFFECT_RETENTION: Duration = Duration::from_hours(24 * 30);

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
            receipt: appended.then(|| receipt_from(row, first + 1)).transpose()?,
        })
    }
}

/// Columns of `receipts r` and `heads h`. The stream is empty for a request without events.
pub(crate) const COLUMNS: &str =
    "r.digest, r.stream, r.version, r.first_position, r.count, h.log_id, r.format";

/// A receipt from `stream, version, first_position, count, log_id` starting at column `first`.
fn receipt_from(row: &Row, first: usize) -> Result<Receipt, StoreError> {
    let first_position = row.get::<_, i64>(first + 2) as u64;
    let count = row.get::<_, i32>(first + 3) as u32;
    Ok(Receipt {
        stream: StreamName::parse(row.get(first))?,
        version: row.get::<_, i64>(first + 1) as u64,
        log_id: LogId(row.get(first + 4)),
        first_position,
        position: first_position + u64::from(count).saturating_sub(1),
        count,
        recorded_at: None,
        duplicate: true,
    })
}
