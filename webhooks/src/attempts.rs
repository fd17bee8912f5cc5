//! Rows of delivery attempts: the newest of each endpoint are kept.

use chrono::{DateTime, Utc};
use store::sql::Row;
use store::{StoreError, TenantTransaction};
use uuid::Uuid;

/// Maximum attempts kept per endpoint.
const ATTEMPTS_RETAINED_MAX: i64 = 1_000;

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

/// Stores attempts.
pub(crate) async fn put(
    transaction: &TenantTransaction,
    webhook: Uuid,
    attempts: &[DeliveryAttempt],
) -> Result<(), StoreError> {
    let column = |value: fn(&DeliveryAttempt) -> i64| attempts.iter().map(value).collect::<Vec<i64>>();
    let ids: Vec<Uuid> = attempts.iter().map(|attempt| attempt.id).collect();
    let events: Vec<Uuid> = attempts.iter().map(|attempt| attempt.event_id).collect();
    let types: Vec<&str> = attempts.iter().map(|attempt| &*attempt.event_type).collect();
    let statuses: Vec<Option<i32>> = attempts.iter().map(|a| a.http_status.map(i32::from)).collect();
    let errors: Vec<Option<&str>> = attempts.iter().map(|attempt| attempt.error.as_deref()).collect();
    let times: Vec<DateTime<Utc>> = attempts.iter().map(|attempt| attempt.at).collect();
    transaction
        .execute_named(
            "insert into webhook_deliveries (tenant_id, webhook_id, delivery_id, position, event_id, event_type, attempt,
                                             outcome, http_status, error, millis, at)
             select :tenant_id, :webhook_id, id, position, event_id, event_type, number,
                    case when error is null then 'succeeded' else 'failed' end, http_status, error, millis, at
             from unnest(:ids::uuid[], :positions::bigint[], :event_ids::uuid[], :event_types::text[],
                         :numbers::bigint[], :http_statuses::integer[], :errors::text[], :millis::bigint[],
                         :times::timestamptz[])
                  as made (id, position, event_id, event_type, number, http_status, error, millis, at)",
            &[
                ("tenant_id", &transaction.tenant().0),
                ("webhook_id", &webhook),
                ("ids", &ids),
                ("positions", &column(|attempt| attempt.position as i64)),
                ("event_ids", &events),
                ("event_types", &types),
                ("numbers", &column(|attempt| i64::from(attempt.number))),
                ("http_statuses", &statuses),
                ("errors", &errors),
                ("millis", &column(|attempt| i64::from(attempt.millis))),
                ("times", &times),
            ],
        )
        .await?;
    Ok(())
}

/// A page of attempts, newest first, before `before`.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn page(
    transaction: &TenantTransaction,
    webhook: Uuid,
    before: Option<Uuid>,
    limit: u32,
) -> Result<Vec<DeliveryAttempt>, StoreError> {
    let sql = "select delivery_id, position, event_id, event_type, attempt, http_status, error, millis, at
               from webhook_deliveries
               where tenant_id = $1 and webhook_id = $2 and delivery_id < $3
               order by delivery_id desc limit $4";
    let before = before.unwrap_or(Uuid::max());
    let rows =
        transaction.query(sql, &[&transaction.tenant().0, &webhook, &before, &i64::from(limit)]).await?;
    let attempt = |row: &Row| DeliveryAttempt {
        id: row.get("delivery_id"),
        position: row.get::<_, i64>("position") as u64,
        event_id: row.get("event_id"),
        event_type: row.get("event_type"),
        number: row.get::<_, i32>("attempt") as u32,
        http_status: row.get::<_, Option<i32>>("http_status").map(|status| status as u16),
        error: row.get("error"),
        millis: row.get::<_, i32>("millis") as u32,
        at: row.get("at"),
    };
    Ok(rows.iter().map(attempt).collect())
}

/// Deletes all but the newest attempts.
pub(crate) async fn prune(transaction: &TenantTransaction, webhook: Uuid) -> Result<(), StoreError> {
    transaction
        .execute(
            "delete from webhook_deliveries
             where tenant_id = $1 and webhook_id = $2 and delivery_id <= (
                 select delivery_id from webhook_deliveries where tenant_id = $1 and webhook_id = $2
                 order by delivery_id desc offset $3 limit 1)",
            &[&transaction.tenant().0, &webhook, &ATTEMPTS_RETAINED_MAX],
        )
        .await?;
    Ok(())
}
