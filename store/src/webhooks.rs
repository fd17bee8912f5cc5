//! The registry of webhooks: the endpoints of a tenant with their positions.
//! `delivery` has the writes of delivery runs.

pub mod delivery;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use schemas::engine::{LogId, TypePattern};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{StoreError, TenantTransaction};

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disabled {
    /// A stable code: `by_request`, `gone`, `failing`, `dead_letters` or `log_replaced`.
    pub reason: String,
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
    pub fn patterns(&self) -> Result<Vec<TypePattern>, StoreError> {
        Ok(self.types.iter().map(|pattern| pattern.parse()).collect::<Result<_, _>>()?)
    }
}

const COLUMNS: &str = "webhook_id, url, types, description, ordering, status, disabled_reason, disabled_at, secret, \
                       old_secret, old_secret_until, log_id, position, epoch, held, retry_at, failing_since, created_at, \
                       updated_at, personal_data";

fn webhook_from(row: &Row) -> Result<Webhook, StoreError> {
    let bytes = |column: usize| row.get::<_, Option<Vec<u8>>>(column).map(Bytes::from);
    let disabled = match (row.get::<_, &str>(5), row.get(6), row.get(7)) {
        ("active", ..) => None,
        (_, Some(reason), Some(at)) => Some(Disabled { reason, at }),
        (status, ..) => return Err(StoreError::corrupt("a webhook's status", status)),
    };
    Ok(Webhook {
        id: row.get(0),
        url: row.get(1),
        types: serde_json::from_str(row.get(2))
            .map_err(|error| StoreError::corrupt("a webhook's types", error))?,
        description: row.get(3),
        ordering: Ordering::parse(row.get(4))
            .ok_or_else(|| StoreError::corrupt("a webhook's ordering", row.get::<_, String>(4)))?,
        disabled,
        secret: bytes(8).unwrap_or_default(),
        old_secret: bytes(9).zip(row.get(10)),
        log_id: LogId(row.get(11)),
        position: row.get::<_, i64>(12) as u64,
        epoch: row.get(13),
        held: row.get(14),
        retry_at: row.get(15),
        failing_since: row.get(16),
        created_at: row.get(17),
        updated_at: row.get(18),
        personal_data: row.get(19),
    })
}

impl TenantTransaction {
    /// The webhook with this id.
    pub async fn webhook(&self, id: Uuid) -> Result<Option<Webhook>, StoreError> {
        let sql = format!("select {COLUMNS} from webhooks where tenant_id = $1 and webhook_id = $2");
        self.query_opt(&sql, &[&self.tenant().0, &id]).await?.as_ref().map(webhook_from).transpose()
    }

    /// The webhook with this id, locked until the transaction ends.
    pub async fn lock_webhook(&self, id: Uuid) -> Result<Option<Webhook>, StoreError> {
        let sql =
            format!("select {COLUMNS} from webhooks where tenant_id = $1 and webhook_id = $2 for update");
        self.query_opt(&sql, &[&self.tenant().0, &id]).await?.as_ref().map(webhook_from).transpose()
    }

    /// A page of webhooks in the order of their ids.
    pub async fn webhooks(&self, after: Option<Uuid>, limit: u32) -> Result<Vec<Webhook>, StoreError> {
        let sql = format!(
            "select {COLUMNS} from webhooks where tenant_id = $1 and webhook_id > $2 order by webhook_id limit $3"
        );
        let after = after.unwrap_or(Uuid::nil());
        let rows = self.query(&sql, &[&self.tenant().0, &after, &i64::from(limit)]).await?;
        rows.iter().map(webhook_from).collect()
    }

    /// The number of webhooks of the tenant.
    pub async fn count_webhooks(&self) -> Result<u64, StoreError> {
        let row =
            self.query_opt("select count(*) from webhooks where tenant_id = $1", &[&self.tenant().0]).await?;
        Ok(row.map_or(0, |row| row.get::<_, i64>(0) as u64))
    }

    /// Inserts or replaces a webhook; `held` and `retry_at` are computed from its failures.
    pub async fn put_webhook(&self, webhook: &Webhook) -> Result<(), StoreError> {
        let types = serde_json::json!(webhook.types).to_string();
        let (reason, disabled_at) = webhook.disabled.as_ref().map(|why| (&*why.reason, why.at)).unzip();
        let (old_secret, old_until) =
            webhook.old_secret.as_ref().map(|(old, until)| (&old[..], until)).unzip();
        self.execute(
            "insert into webhooks (tenant_id, webhook_id, url, types, description, ordering, status, disabled_reason,
                                   disabled_at, secret, old_secret, old_secret_until, log_id, position, epoch,
                                   failing_since, created_at, updated_at, personal_data)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
             on conflict (tenant_id, webhook_id) do update
             set url = excluded.url, types = excluded.types, description = excluded.description,
                 ordering = excluded.ordering, status = excluded.status, disabled_reason = excluded.disabled_reason,
                 disabled_at = excluded.disabled_at, secret = excluded.secret, old_secret = excluded.old_secret,
                 old_secret_until = excluded.old_secret_until, log_id = excluded.log_id, position = excluded.position,
                 epoch = excluded.epoch, failing_since = excluded.failing_since, updated_at = excluded.updated_at,
                 personal_data = excluded.personal_data",
            &[
                &self.tenant().0,
                &webhook.id,
                &webhook.url,
                &types,
                &webhook.description,
                &webhook.ordering.as_str(),
                &if webhook.disabled.is_some() { "disabled" } else { "active" },
                &reason,
                &disabled_at,
                &&webhook.secret[..],
                &old_secret,
                &old_until,
                &webhook.log_id.0,
                &(webhook.position as i64),
                &webhook.epoch,
                &webhook.failing_since,
                &webhook.created_at,
                &webhook.updated_at,
                &webhook.personal_data,
            ],
        )
        .await?;
        self.update_webhook_failures(webhook.id).await
    }

    /// Deletes a webhook with its attempts and failures.
    pub async fn delete_webhook(&self, id: Uuid) -> Result<(), StoreError> {
        for table in ["webhook_deliveries", "webhook_failures", "webhooks"] {
            let sql = format!("delete from {table} where tenant_id = $1 and webhook_id = $2");
            self.execute(&sql, &[&self.tenant().0, &id]).await?;
        }
        Ok(())
    }
}
