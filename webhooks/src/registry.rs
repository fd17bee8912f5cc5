//! The registry of webhooks: the endpoints of a tenant with their positions.
//! `attempts` and `failures` have the rows of deliveries.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use schemas::engine::{LogId, TenantId, TypePattern};
use store::sql::Row;
use store::{CrossTenantRole, Store, StoreError, TenantTransaction};
use uuid::Uuid;

use crate::failures;

/// The order in which an endpoint gets its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordering {
    /// One at a time; a failed delivery blocks later events.
    InOrder,
    /// Several at a time, in any order.
    Parallel,
}

impl Ordering {
    /// The ordering as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InOrder => "in_order",
            Self::Parallel => "parallel",
        }
    }

    /// Parses the name of an ordering.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::InOrder, Self::Parallel].into_iter().find(|ordering| ordering.as_str() == text)
    }
}

/// The reason why an endpoint is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisabledReason {
    /// A client asked for it.
    ByRequest,
    /// The endpoint answered 410.
    Gone,
    /// Deliveries have failed for too long.
    Failing,
    /// It has the maximum of dead letters.
    DeadLetters,
    /// Its log was replaced, so its position has no meaning.
    LogReplaced,
}

impl DisabledReason {
    const ALL: [Self; 5] = [Self::ByRequest, Self::Gone, Self::Failing, Self::DeadLetters, Self::LogReplaced];

    /// The reason as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ByRequest => "by_request",
            Self::Gone => "gone",
            Self::Failing => "failing",
            Self::DeadLetters => "dead_letters",
            Self::LogReplaced => "log_replaced",
        }
    }

    fn parse(text: &str) -> Result<Self, StoreError> {
        let found = Self::ALL.into_iter().find(|reason| reason.as_str() == text);
        found.ok_or_else(|| StoreError::corrupt("the reason of a disabled webhook", text))
    }
}

/// Why and since when an endpoint is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disabled {
    /// The reason.
    pub reason: DisabledReason,
    /// The time since it is disabled.
    pub at: DateTime<Utc>,
}

/// An endpoint of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The id.
    pub id: Uuid,
    /// The URL that events are posted to.
    pub url: String,
    /// Patterns of event types, as the client gave them; empty selects all.
    pub types: Vec<String>,
    /// A description for people.
    pub description: String,
    /// The order of deliveries.
    pub ordering: Ordering,
    /// Whether personal data is decrypted for it.
    pub personal_data: bool,
    /// `None` while it is active.
    pub disabled: Option<Disabled>,
    /// The encrypted signing secret.
    pub secret: Bytes,
    /// The encrypted previous secret, which also signs until this time.
    pub old_secret: Option<(Bytes, DateTime<Utc>)>,
    /// The log of the position.
    pub log_id: LogId,
    /// Every event up to this position is delivered, stored as failed, or does not match.
    pub position: u64,
    /// Grows with every change that invalidates deliveries in progress.
    pub epoch: i64,
    /// Whether failed deliveries block new ones.
    pub held: bool,
    /// The time of the next retry.
    pub retry_at: Option<DateTime<Utc>>,
    /// The time of the first failure since the last success.
    pub failing_since: Option<DateTime<Utc>>,
    /// The time of registration.
    pub created_at: DateTime<Utc>,
    /// The time of the last change by a client.
    pub updated_at: DateTime<Utc>,
}

impl Webhook {
    /// The patterns over event types.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when a stored pattern is malformed.
    pub fn patterns(&self) -> Result<Vec<TypePattern>, StoreError> {
        Ok(self.types.iter().map(|pattern| pattern.parse()).collect::<Result<_, _>>()?)
    }
}

const COLUMNS: &str = "webhook_id, url, types, description, ordering, disabled_reason, disabled_at, secret, old_secret, \
                       old_secret_until, log_id, position, epoch, held, retry_at, failing_since, created_at, updated_at, \
                       personal_data";

fn webhook_from(row: &Row) -> Result<Webhook, StoreError> {
    let bytes = |column: &str| row.get::<_, Option<Vec<u8>>>(column).map(Bytes::from);
    let disabled = match (row.get::<_, Option<&str>>("disabled_reason"), row.get("disabled_at")) {
        (Some(reason), Some(at)) => Some(Disabled { reason: DisabledReason::parse(reason)?, at }),
        _ => None,
    };
    Ok(Webhook {
        id: row.get("webhook_id"),
        url: row.get("url"),
        types: serde_json::from_str(row.get("types"))
            .map_err(|error| StoreError::corrupt("a webhook's types", error))?,
        description: row.get("description"),
        ordering: Ordering::parse(row.get("ordering"))
            .ok_or_else(|| StoreError::corrupt("a webhook's ordering", row.get::<_, String>("ordering")))?,
        disabled,
        secret: bytes("secret").unwrap_or_default(),
        old_secret: bytes("old_secret").zip(row.get("old_secret_until")),
        log_id: LogId(row.get("log_id")),
        position: row.get::<_, i64>("position") as u64,
        epoch: row.get("epoch"),
        held: row.get("held"),
        retry_at: row.get("retry_at"),
        failing_since: row.get("failing_since"),
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
        personal_data: row.get("personal_data"),
    })
}

/// The webhook with this id.
///
/// # Errors
/// [`StoreError`] when the database does not answer; so do all functions here.
pub async fn find(transaction: &TenantTransaction, id: Uuid) -> Result<Option<Webhook>, StoreError> {
    find_with(transaction, id, "").await
}

/// The webhook with this id, locked until the transaction ends.
///
/// # Errors
/// [`StoreError`] when the database does not answer, [`StoreError::Corrupt`] when a stored row does not read.
pub async fn lock(transaction: &TenantTransaction, id: Uuid) -> Result<Option<Webhook>, StoreError> {
    find_with(transaction, id, " for update").await
}

async fn find_with(
    transaction: &TenantTransaction,
    id: Uuid,
    clause: &'static str,
) -> Result<Option<Webhook>, StoreError> {
    let sql = format!("select {COLUMNS} from webhooks where tenant_id = $1 and webhook_id = $2{clause}");
    transaction.query_opt(&sql, &[&transaction.tenant().0, &id]).await?.as_ref().map(webhook_from).transpose()
}

/// A page of webhooks in the order of their ids.
///
/// # Errors
/// [`StoreError`] when the database does not answer, [`StoreError::Corrupt`] when a stored row does not read.
pub async fn page(
    transaction: &TenantTransaction,
    after: Option<Uuid>,
    limit: u32,
) -> Result<Vec<Webhook>, StoreError> {
    let sql = format!(
        "select {COLUMNS} from webhooks where tenant_id = $1 and webhook_id > $2 order by webhook_id limit $3"
    );
    let after = after.unwrap_or(Uuid::nil());
    let rows = transaction.query(&sql, &[&transaction.tenant().0, &after, &i64::from(limit)]).await?;
    rows.iter().map(webhook_from).collect()
}

/// The number of webhooks of the tenant.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn count(transaction: &TenantTransaction) -> Result<u64, StoreError> {
    let sql = "select count(*) from webhooks where tenant_id = $1";
    let row = transaction.query_opt(sql, &[&transaction.tenant().0]).await?;
    Ok(row.map_or(0, |row| row.get::<_, i64>(0) as u64))
}

/// Inserts or replaces a webhook; `held` and `retry_at` are computed from its failures.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn put(transaction: &TenantTransaction, webhook: &Webhook) -> Result<(), StoreError> {
    let types = serde_json::json!(webhook.types).to_string();
    let (reason, disabled_at) = webhook.disabled.map(|why| (why.reason.as_str(), why.at)).unzip();
    let (old_secret, old_until) = webhook.old_secret.as_ref().map(|(old, until)| (&old[..], until)).unzip();
    transaction
        .execute_named(
            "insert into webhooks (tenant_id, webhook_id, url, types, description, ordering, status, disabled_reason,
                                   disabled_at, secret, old_secret, old_secret_until, log_id, position, epoch,
                                   failing_since, created_at, updated_at, personal_data)
             values (:tenant_id, :webhook_id, :url, :types, :description, :ordering, :status, :disabled_reason,
                     :disabled_at, :secret, :old_secret, :old_secret_until, :log_id, :position, :epoch,
                     :failing_since, :created_at, :updated_at, :personal_data)
             on conflict (tenant_id, webhook_id) do update
             set url = excluded.url, types = excluded.types, description = excluded.description,
                 ordering = excluded.ordering, status = excluded.status, disabled_reason = excluded.disabled_reason,
                 disabled_at = excluded.disabled_at, secret = excluded.secret, old_secret = excluded.old_secret,
                 old_secret_until = excluded.old_secret_until, log_id = excluded.log_id, position = excluded.position,
                 epoch = excluded.epoch, failing_since = excluded.failing_since, updated_at = excluded.updated_at,
                 personal_data = excluded.personal_data",
            &[
                ("tenant_id", &transaction.tenant().0),
                ("webhook_id", &webhook.id),
                ("url", &webhook.url),
                ("types", &types),
                ("description", &webhook.description),
                ("ordering", &webhook.ordering.as_str()),
                ("status", &if webhook.disabled.is_some() { "disabled" } else { "active" }),
                ("disabled_reason", &reason),
                ("disabled_at", &disabled_at),
                ("secret", &&webhook.secret[..]),
                ("old_secret", &old_secret),
                ("old_secret_until", &old_until),
                ("log_id", &webhook.log_id.0),
                ("position", &(webhook.position as i64)),
                ("epoch", &webhook.epoch),
                ("failing_since", &webhook.failing_since),
                ("created_at", &webhook.created_at),
                ("updated_at", &webhook.updated_at),
                ("personal_data", &webhook.personal_data),
            ],
        )
        .await?;
    failures::update_webhook(transaction, webhook.id).await
}

/// Deletes a webhook with its attempts and failures.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn delete(transaction: &TenantTransaction, id: Uuid) -> Result<(), StoreError> {
    for table in ["webhook_deliveries", "webhook_failures", "webhooks"] {
        let sql = format!("delete from {table} where tenant_id = $1 and webhook_id = $2");
        transaction.execute(&sql, &[&transaction.tenant().0, &id]).await?;
    }
    Ok(())
}

/// Disables an endpoint. Returns `false` when it was changed meanwhile.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn disable(
    transaction: &TenantTransaction,
    webhook: Uuid,
    epoch: i64,
    why: Disabled,
) -> Result<bool, StoreError> {
    let disabled = transaction
        .execute_named(
            "update webhooks
             set status = 'disabled', disabled_reason = :reason, disabled_at = :at, epoch = epoch + 1
             where tenant_id = :tenant_id and webhook_id = :webhook_id and epoch = :epoch and status = 'active'",
            &[
                ("reason", &why.reason.as_str()),
                ("at", &why.at),
                ("tenant_id", &transaction.tenant().0),
                ("webhook_id", &webhook),
                ("epoch", &epoch),
            ],
        )
        .await?;
    Ok(disabled == 1)
}

/// An active endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveWebhook {
    /// The tenant.
    pub tenant: TenantId,
    /// The id of the webhook.
    pub webhook: Uuid,
    /// Whether it has work: events after its position, a due retry, or another log.
    pub is_due: bool,
}

/// The active endpoints of all tenants that are not suspended.
#[expect(clippy::disallowed_methods, reason = "deliveries serve all tenants")]
pub(crate) async fn active(store: &Store, now: DateTime<Utc>) -> Result<Vec<ActiveWebhook>, StoreError> {
    let connection = store.cross_tenant_connection(CrossTenantRole::Worker).await?;
    let statement = "select w.tenant_id, w.webhook_id,
                        w.log_id <> h.log_id or (not w.held and w.position < h.position)
                            or coalesce(w.retry_at <= $1, false) as is_due
                 from webhooks w
                 join heads h on h.tenant_id = w.tenant_id
                 join tenants t on t.tenant_id = w.tenant_id
                 where w.status = 'active' and not t.suspended";
    let rows = connection.query(statement, &[&now]).await?;
    let webhook = |row: &Row| ActiveWebhook {
        tenant: TenantId(row.get("tenant_id")),
        webhook: row.get("webhook_id"),
        is_due: row.get("is_due"),
    };
    Ok(rows.iter().map(webhook).collect())
}
