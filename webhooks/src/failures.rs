//! Rows of failed deliveries, pending or dead, and the writes of delivery runs: positions move by compare-and-swap.

use chrono::{DateTime, Utc};
use store::sql::Row;
use store::{StoreError, TenantTransaction};
use uuid::Uuid;

use crate::attempts::{self, DeliveryAttempt};

/// Maximum pending failures per endpoint; at the maximum it gets no new events.
const PENDING_FAILURES_MAX: i64 = 1_000;

/// A failed delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedDelivery {
    /// The position of the event.
    pub position: u64,
    /// The id of the event.
    pub event_id: Uuid,
    /// The event type.
    pub event_type: String,
    /// Whether it is a dead letter: it is not retried automatically.
    pub is_dead: bool,
    /// Whether it is a manual retry, which does not block later events.
    pub is_manual_retry: bool,
    /// The number of attempts.
    pub attempts: u32,
    /// The time of the first failure.
    pub first_at: DateTime<Utc>,
    /// The time of the last failure.
    pub last_at: DateTime<Utc>,
    /// The time of the next attempt.
    pub next_attempt_at: DateTime<Utc>,
    /// The error code of the last failure.
    pub error: String,
}

const COLUMNS: &str = "position, event_id, event_type, status = 'dead' as is_dead, late, attempts, first_at, last_at, \
                       next_attempt_at, error";

fn failure_from(row: &Row) -> FailedDelivery {
    FailedDelivery {
        position: row.get::<_, i64>("position") as u64,
        event_id: row.get("event_id"),
        event_type: row.get("event_type"),
        is_dead: row.get("is_dead"),
        is_manual_retry: row.get("late"),
        attempts: row.get::<_, i32>("attempts") as u32,
        first_at: row.get("first_at"),
        last_at: row.get("last_at"),
        next_attempt_at: row.get("next_attempt_at"),
        error: row.get("error"),
    }
}

/// Results of a part of a delivery run, stored in one transaction.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeliveryResults {
    /// The attempts.
    pub attempts: Vec<DeliveryAttempt>,
    /// Deliveries that failed, for the first time or again.
    pub failed: Vec<FailedDelivery>,
    /// Positions of earlier failures that are delivered now.
    pub resolved: Vec<u64>,
}

/// Stores results, and moves the position of an endpoint from `from` to `to` (they may be equal).
/// Returns `false` when the endpoint is at another position or was changed: then the transaction must not commit.
pub(crate) async fn record(
    transaction: &TenantTransaction,
    webhook: Uuid,
    epoch: i64,
    (from, to): (u64, u64),
    settlement: &DeliveryResults,
) -> Result<bool, StoreError> {
    let succeeded = settlement.attempts.iter().any(|attempt| attempt.error.is_none());
    let first_failure =
        settlement.attempts.iter().filter(|attempt| attempt.error.is_some()).map(|a| a.at).min();
    let moved = transaction.execute_named(
            "update webhooks
             set position = :to,
                 failing_since = case when :succeeded then null else coalesce(failing_since, :first_failure) end
             where tenant_id = :tenant_id and webhook_id = :webhook_id and epoch = :epoch and position = :from
               and status = 'active'",
            &[
                ("tenant_id", &transaction.tenant().0),
                ("webhook_id", &webhook),
                ("epoch", &epoch),
                ("from", &(from as i64)),
                ("to", &(to as i64)),
                ("succeeded", &succeeded),
                ("first_failure", &first_failure),
            ],
        )
        .await?;
    if moved == 0 {
        return Ok(false);
    }
    attempts::put(transaction, webhook, &settlement.attempts).await?;
    for failure in &settlement.failed {
        put(transaction, webhook, failure).await?;
    }
    let resolved: Vec<i64> = settlement.resolved.iter().map(|at| *at as i64).collect();
    if !resolved.is_empty() {
        transaction.execute(
            "delete from webhook_failures where tenant_id = $1 and webhook_id = $2 and position = any($3)",
            &[&transaction.tenant().0, &webhook, &resolved],
        )
        .await?;
    }
    if !settlement.failed.is_empty() || !resolved.is_empty() {
        update_webhook(transaction, webhook).await?;
    }
    Ok(true)
}

async fn put(
    transaction: &TenantTransaction,
    webhook: Uuid,
    failure: &FailedDelivery,
) -> Result<(), StoreError> {
    transaction.execute_named(
        "insert into webhook_failures (tenant_id, webhook_id, position, event_id, event_type, status, late, attempts,
                                       first_at, last_at, next_attempt_at, error)
         values (:tenant_id, :webhook_id, :position, :event_id, :event_type, :status, :late, :attempts, :first_at,
                 :last_at, :next_attempt_at, :error)
         on conflict (tenant_id, webhook_id, position) do update
         set status = excluded.status, late = excluded.late, attempts = excluded.attempts,
             last_at = excluded.last_at, next_attempt_at = excluded.next_attempt_at, error = excluded.error",
        &[
            ("tenant_id", &transaction.tenant().0),
            ("webhook_id", &webhook),
            ("position", &(failure.position as i64)),
            ("event_id", &failure.event_id),
            ("event_type", &failure.event_type),
            ("status", &if failure.is_dead { "dead" } else { "pending" }),
            ("late", &failure.is_manual_retry),
            ("attempts", &(failure.attempts as i32)),
            ("first_at", &failure.first_at),
            ("last_at", &failure.last_at),
            ("next_attempt_at", &failure.next_attempt_at),
            ("error", &failure.error),
        ],
    )
    .await?;
    Ok(())
}

/// Updates the time of the next retry, and whether failures block new deliveries.
pub(crate) async fn update_webhook(transaction: &TenantTransaction, webhook: Uuid) -> Result<(), StoreError> {
    transaction
        .execute(
            "update webhooks w
         set retry_at = f.retry_at,
             held = f.pending >= $3 or (w.ordering = 'in_order' and f.in_time > 0)
         from (select min(next_attempt_at) as retry_at, count(*) as pending,
                      count(*) filter (where not late) as in_time
               from webhook_failures where tenant_id = $1 and webhook_id = $2 and status = 'pending') f
         where w.tenant_id = $1 and w.webhook_id = $2",
            &[&transaction.tenant().0, &webhook, &PENDING_FAILURES_MAX],
        )
        .await?;
    Ok(())
}

/// Failed deliveries that are due, longest waiting first.
pub(crate) async fn due(
    transaction: &TenantTransaction,
    webhook: Uuid,
    now: DateTime<Utc>,
    limit: u32,
) -> Result<Vec<FailedDelivery>, StoreError> {
    let sql = format!(
        "select {COLUMNS} from webhook_failures
         where tenant_id = $1 and webhook_id = $2 and status = 'pending' and next_attempt_at <= $3
         order by next_attempt_at, position limit $4"
    );
    let rows = transaction.query(&sql, &[&transaction.tenant().0, &webhook, &now, &i64::from(limit)]).await?;
    Ok(rows.iter().map(failure_from).collect())
}

/// A page of the dead letters of an endpoint, by position.
///
/// # Errors
/// [`StoreError`] when the database does not answer; so do all functions here.
pub async fn dead(
    transaction: &TenantTransaction,
    webhook: Uuid,
    after: u64,
    limit: u32,
) -> Result<Vec<FailedDelivery>, StoreError> {
    let sql = format!(
        "select {COLUMNS} from webhook_failures
         where tenant_id = $1 and webhook_id = $2 and status = 'dead' and position > $3
         order by position limit $4"
    );
    let rows = transaction
        .query(&sql, &[&transaction.tenant().0, &webhook, &(after as i64), &i64::from(limit)])
        .await?;
    Ok(rows.iter().map(failure_from).collect())
}

/// The number of dead letters of an endpoint.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn count_dead(transaction: &TenantTransaction, webhook: Uuid) -> Result<u64, StoreError> {
    let sql = "select count(*) from webhook_failures
               where tenant_id = $1 and webhook_id = $2 and status = 'dead'";
    let row = transaction.query_opt(sql, &[&transaction.tenant().0, &webhook]).await?;
    Ok(row.map_or(0, |row| row.get::<_, i64>(0) as u64))
}

/// Deletes dead letters, one or all, and returns their number. The events stay in the log.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn discard_dead(
    transaction: &TenantTransaction,
    webhook: Uuid,
    position: Option<u64>,
) -> Result<u64, StoreError> {
    transaction.execute(
        "delete from webhook_failures
         where tenant_id = $1 and webhook_id = $2 and status = 'dead' and ($3::bigint is null or position = $3)",
        &[&transaction.tenant().0, &webhook, &position.map(|position| position as i64)],
    )
    .await
}

/// Retries dead letters, one or all, and returns their number.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn retry_dead(
    transaction: &TenantTransaction,
    webhook: Uuid,
    position: Option<u64>,
    now: DateTime<Utc>,
) -> Result<u64, StoreError> {
    let retried = transaction.execute(
            "update webhook_failures
             set status = 'pending', late = true, attempts = 0, first_at = $4, next_attempt_at = $4
             where tenant_id = $1 and webhook_id = $2 and status = 'dead' and ($3::bigint is null or position = $3)",
            &[&transaction.tenant().0, &webhook, &position.map(|position| position as i64), &now],
        )
        .await?;
    update_webhook(transaction, webhook).await?;
    Ok(retried)
}

/// Deletes failures after a position, because everything after it is delivered again.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn delete_after(
    transaction: &TenantTransaction,
    webhook: Uuid,
    after: u64,
) -> Result<(), StoreError> {
    transaction
        .execute(
            "delete from webhook_failures where tenant_id = $1 and webhook_id = $2 and position > $3",
            &[&transaction.tenant().0, &webhook, &(after as i64)],
        )
        .await?;
    Ok(())
}
