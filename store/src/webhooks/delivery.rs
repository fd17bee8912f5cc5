//! Rows of webhook deliveries: due endpoints, failed deliveries, attempts, and positions that move by compare-and-swap.

use chrono::{DateTime, Utc};
use schemas::engine::TenantId;
use tokio_postgres::Row;
use uuid::Uuid;

use super::Disabled;
use crate::pools::get;
use crate::{Store, StoreError, TenantTransaction};

/// Maximum pending failures per endpoint; at the maximum it gets no new events.
const PENDING_FAILURES_MAX: i64 = 1_000;
/// Maximum attempts kept per endpoint.
const ATTEMPTS_RETAINED_MAX: i64 = 1_000;

/// An active endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueWebhook {
    /// The tenant.
    pub tenant: TenantId,
    /// The id of the webhook.
    pub webhook: Uuid,
    /// Whether it has work: events after its position, a due retry, or another log.
    pub is_due: bool,
}

/// One attempt to deliver an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryAttempt {
    /// UUIDv7.
    pub id: Uuid,
    /// The position of the event.
    pub position: u64,
    /// The id of the event.
    pub event_id: Uuid,
    /// The event type.
    pub event_type: String,
    /// The number of the attempt for this event, from 1.
    pub number: u32,
    /// The HTTP status of the answer, if there was one.
    pub http_status: Option<u16>,
    /// The stable error code; `None` after a success.
    pub error: Option<String>,
    /// The duration in milliseconds.
    pub millis: u32,
    /// The start of the attempt.
    pub at: DateTime<Utc>,
}

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

const FAILURE_COLUMNS: &str =
    "position, event_id, event_type, status, late, attempts, first_at, last_at, next_attempt_at, error";

fn failure_from(row: &Row) -> FailedDelivery {
    FailedDelivery {
        position: row.get::<_, i64>(0) as u64,
        event_id: row.get(1),
        event_type: row.get(2),
        is_dead: row.get::<_, &str>(3) == "dead",
        is_manual_retry: row.get(4),
        attempts: row.get::<_, i32>(5) as u32,
        first_at: row.get(6),
        last_at: row.get(7),
        next_attempt_at: row.get(8),
        error: row.get(9),
    }
}

/// Results of a part of a delivery run, stored in one transaction.
#[derive(Debug, Clone, Default)]
pub struct DeliveryResults {
    /// The attempts.
    pub attempts: Vec<DeliveryAttempt>,
    /// Deliveries that failed, for the first time or again.
    pub failed: Vec<FailedDelivery>,
    /// Positions of earlier failures that are delivered now.
    pub resolved: Vec<u64>,
}

impl TenantTransaction {
    /// Stores results, and moves the position of an endpoint from `from` to `to` (they may be equal).
    /// Returns `false` when the endpoint is at another position or was changed: then the transaction must not commit.
    pub async fn record_deliveries(
        &self,
        webhook: Uuid,
        epoch: i64,
        (from, to): (u64, u64),
        settlement: &DeliveryResults,
    ) -> Result<bool, StoreError> {
        let succeeded = settlement.attempts.iter().any(|attempt| attempt.error.is_none());
        let first_failure =
            settlement.attempts.iter().filter(|attempt| attempt.error.is_some()).map(|a| a.at).min();
        let moved = self
            .execute(
                "update webhooks
                 set position = $5, failing_since = case when $6 then null else coalesce(failing_since, $7) end
                 where tenant_id = $1 and webhook_id = $2 and epoch = $3 and position = $4 and status = 'active'",
                &[
                    &self.tenant().0,
                    &webhook,
                    &epoch,
                    &(from as i64),
                    &(to as i64),
                    &succeeded,
                    &first_failure,
                ],
            )
            .await?;
        if moved == 0 {
            return Ok(false);
        }
        self.put_attempts(webhook, &settlement.attempts).await?;
        for failure in &settlement.failed {
            self.put_failure(webhook, failure).await?;
        }
        let resolved: Vec<i64> = settlement.resolved.iter().map(|at| *at as i64).collect();
        if !resolved.is_empty() {
            self.execute(
                "delete from webhook_failures where tenant_id = $1 and webhook_id = $2 and position = any($3)",
                &[&self.tenant().0, &webhook, &resolved],
            )
            .await?;
        }
        if !settlement.failed.is_empty() || !resolved.is_empty() {
            self.update_webhook_failures(webhook).await?;
        }
        Ok(true)
    }

    async fn put_attempts(&self, webhook: Uuid, attempts: &[DeliveryAttempt]) -> Result<(), StoreError> {
        let column = |value: fn(&DeliveryAttempt) -> i64| attempts.iter().map(value).collect::<Vec<i64>>();
        let ids: Vec<Uuid> = attempts.iter().map(|attempt| attempt.id).collect();
        let events: Vec<Uuid> = attempts.iter().map(|attempt| attempt.event_id).collect();
        let types: Vec<&str> = attempts.iter().map(|attempt| &*attempt.event_type).collect();
        let statuses: Vec<Option<i32>> = attempts.iter().map(|a| a.http_status.map(i32::from)).collect();
        let errors: Vec<Option<&str>> = attempts.iter().map(|attempt| attempt.error.as_deref()).collect();
        let times: Vec<DateTime<Utc>> = attempts.iter().map(|attempt| attempt.at).collect();
        self.execute(
            "insert into webhook_deliveries (tenant_id, webhook_id, delivery_id, position, event_id, event_type, attempt,
                                             outcome, http_status, error, millis, at)
             select $1, $2, id, position, event_id, event_type, attempt,
                    case when error is null then 'succeeded' else 'failed' end, http_status, error, millis, at
             from unnest($3::uuid[], $4::bigint[], $5::uuid[], $6::text[], $7::bigint[], $8::integer[], $9::text[],
                         $10::bigint[], $11::timestamptz[])
                  as made (id, position, event_id, event_type, attempt, http_status, error, millis, at)",
            &[
                &self.tenant().0,
                &webhook,
                &ids,
                &column(|attempt| attempt.position as i64),
                &events,
                &types,
                &column(|attempt| i64::from(attempt.number)),
                &statuses,
                &errors,
                &column(|attempt| i64::from(attempt.millis)),
                &times,
            ],
        )
        .await?;
        Ok(())
    }

    async fn put_failure(&self, webhook: Uuid, failure: &FailedDelivery) -> Result<(), StoreError> {
        self.execute(
            "insert into webhook_failures (tenant_id, webhook_id, position, event_id, event_type, status, late, attempts,
                                           first_at, last_at, next_attempt_at, error)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             on conflict (tenant_id, webhook_id, position) do update
             set status = excluded.status, late = excluded.late, attempts = excluded.attempts,
                 last_at = excluded.last_at, next_attempt_at = excluded.next_attempt_at, error = excluded.error",
            &[
                &self.tenant().0,
                &webhook,
                &(failure.position as i64),
                &failure.event_id,
                &failure.event_type,
                &if failure.is_dead { "dead" } else { "pending" },
                &failure.is_manual_retry,
                &(failure.attempts as i32),
                &failure.first_at,
                &failure.last_at,
                &failure.next_attempt_at,
                &failure.error,
            ],
        )
        .await?;
        Ok(())
    }

    /// Updates the time of the next retry, and whether failures block new deliveries.
    pub(super) async fn update_webhook_failures(&self, webhook: Uuid) -> Result<(), StoreError> {
        self.execute(
            "update webhooks w
             set retry_at = f.retry_at,
                 held = f.pending >= $3 or (w.ordering = 'in_order' and f.in_time > 0)
             from (select min(next_attempt_at) as retry_at, count(*) as pending,
                          count(*) filter (where not late) as in_time
                   from webhook_failures where tenant_id = $1 and webhook_id = $2 and status = 'pending') f
             where w.tenant_id = $1 and w.webhook_id = $2",
            &[&self.tenant().0, &webhook, &PENDING_FAILURES_MAX],
        )
        .await?;
        Ok(())
    }

    /// Failed deliveries that are due, longest waiting first.
    pub async fn due_webhook_failures(
        &self,
        webhook: Uuid,
        now: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<FailedDelivery>, StoreError> {
        let sql = format!(
            "select {FAILURE_COLUMNS} from webhook_failures
             where tenant_id = $1 and webhook_id = $2 and status = 'pending' and next_attempt_at <= $3
             order by next_attempt_at, position limit $4"
        );
        let rows = self.query(&sql, &[&self.tenant().0, &webhook, &now, &i64::from(limit)]).await?;
        Ok(rows.iter().map(failure_from).collect())
    }

    /// A page of the dead letters of an endpoint, by position.
    pub async fn dead_webhook_deliveries(
        &self,
        webhook: Uuid,
        after: u64,
        limit: u32,
    ) -> Result<Vec<FailedDelivery>, StoreError> {
        let sql = format!(
            "select {FAILURE_COLUMNS} from webhook_failures
             where tenant_id = $1 and webhook_id = $2 and status = 'dead' and position > $3
             order by position limit $4"
        );
        let rows =
            self.query(&sql, &[&self.tenant().0, &webhook, &(after as i64), &i64::from(limit)]).await?;
        Ok(rows.iter().map(failure_from).collect())
    }

    /// The number of dead letters of an endpoint.
    pub async fn count_dead_webhook_deliveries(&self, webhook: Uuid) -> Result<u64, StoreError> {
        let sql = "select count(*) from webhook_failures
                   where tenant_id = $1 and webhook_id = $2 and status = 'dead'";
        let row = self.query_opt(sql, &[&self.tenant().0, &webhook]).await?;
        Ok(row.map_or(0, |row| row.get::<_, i64>(0) as u64))
    }

    /// Deletes dead letters, one or all, and returns their number. The events stay in the log.
    pub async fn discard_dead_webhook_deliveries(
        &self,
        webhook: Uuid,
        position: Option<u64>,
    ) -> Result<u64, StoreError> {
        self.execute(
            "delete from webhook_failures
             where tenant_id = $1 and webhook_id = $2 and status = 'dead' and ($3::bigint is null or position = $3)",
            &[&self.tenant().0, &webhook, &position.map(|position| position as i64)],
        )
        .await
    }

    /// Retries dead letters, one or all, and returns their number.
    pub async fn retry_dead_webhook_deliveries(
        &self,
        webhook: Uuid,
        position: Option<u64>,
        now: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        let retried = self
            .execute(
                "update webhook_failures
                 set status = 'pending', late = true, attempts = 0, first_at = $4, next_attempt_at = $4
                 where tenant_id = $1 and webhook_id = $2 and status = 'dead' and ($3::bigint is null or position = $3)",
                &[&self.tenant().0, &webhook, &position.map(|position| position as i64), &now],
            )
            .await?;
        self.update_webhook_failures(webhook).await?;
        Ok(retried)
    }

    /// Deletes failures after a position, because everything after it is delivered again.
    pub async fn delete_webhook_failures(&self, webhook: Uuid, after: u64) -> Result<(), StoreError> {
        self.execute(
            "delete from webhook_failures where tenant_id = $1 and webhook_id = $2 and position > $3",
            &[&self.tenant().0, &webhook, &(after as i64)],
        )
        .await?;
        Ok(())
    }

    /// A page of attempts, newest first, before `before`.
    pub async fn webhook_attempts(
        &self,
        webhook: Uuid,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<DeliveryAttempt>, StoreError> {
        let sql =
            "select delivery_id, position, event_id, event_type, attempt, http_status, error, millis, at
                   from webhook_deliveries
                   where tenant_id = $1 and webhook_id = $2 and delivery_id < $3
                   order by delivery_id desc limit $4";
        let before = before.unwrap_or(Uuid::max());
        let rows = self.query(sql, &[&self.tenant().0, &webhook, &before, &i64::from(limit)]).await?;
        let attempt = |row: &Row| DeliveryAttempt {
            id: row.get(0),
            position: row.get::<_, i64>(1) as u64,
            event_id: row.get(2),
            event_type: row.get(3),
            number: row.get::<_, i32>(4) as u32,
            http_status: row.get::<_, Option<i32>>(5).map(|status| status as u16),
            error: row.get(6),
            millis: row.get::<_, i32>(7) as u32,
            at: row.get(8),
        };
        Ok(rows.iter().map(attempt).collect())
    }

    /// Deletes all but the newest attempts.
    pub async fn prune_webhook_attempts(&self, webhook: Uuid) -> Result<(), StoreError> {
        self.execute(
            "delete from webhook_deliveries
             where tenant_id = $1 and webhook_id = $2 and delivery_id <= (
                 select delivery_id from webhook_deliveries where tenant_id = $1 and webhook_id = $2
                 order by delivery_id desc offset $3 limit 1)",
            &[&self.tenant().0, &webhook, &ATTEMPTS_RETAINED_MAX],
        )
        .await?;
        Ok(())
    }

    /// Disables an endpoint. Returns `false` when it was changed meanwhile.
    pub async fn disable_webhook(
        &self,
        webhook: Uuid,
        epoch: i64,
        why: &Disabled,
    ) -> Result<bool, StoreError> {
        let disabled = self
            .execute(
                "update webhooks set status = 'disabled', disabled_reason = $4, disabled_at = $5, epoch = epoch + 1
                 where tenant_id = $1 and webhook_id = $2 and epoch = $3 and status = 'active'",
                &[&self.tenant().0, &webhook, &epoch, &why.reason, &why.at],
            )
            .await?;
        Ok(disabled == 1)
    }
}

impl Store {
    /// The active endpoints of all tenants that are not suspended.
    pub async fn active_webhooks(&self, now: DateTime<Utc>) -> Result<Vec<DueWebhook>, StoreError> {
        let connection = get(&self.0.pools.worker).await?;
        let statement = "select w.tenant_id, w.webhook_id,
                        w.log_id <> h.log_id or (not w.held and w.position < h.position)
                            or coalesce(w.retry_at <= $1, false)
                 from webhooks w
                 join heads h on h.tenant_id = w.tenant_id
                 join tenants t on t.tenant_id = w.tenant_id
                 where w.status = 'active' and not t.suspended";
        let rows = connection.query(statement, &[&now]).await?;
        let due =
            |row: &Row| DueWebhook { tenant: TenantId(row.get(0)), webhook: row.get(1), is_due: row.get(2) };
        Ok(rows.iter().map(due).collect())
    }
}
