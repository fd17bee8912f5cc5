//! Dead letters: events or steps that a projection or a saga could not process, stored until an operator decides.

use chrono::{DateTime, Utc};
use schemas::engine::TenantId;
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::pools::get;
use crate::{Store, StoreError, TenantTransaction};

/// The status of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterStatus {
    /// Needs a decision of an operator.
    Open,
    /// An operator requested a retry.
    Retrying,
    /// The retry succeeded.
    Resolved,
    /// An operator discarded it.
    Discarded,
}

impl DeadLetterStatus {
    /// The status as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Retrying => "retrying",
            Self::Resolved => "resolved",
            Self::Discarded => "discarded",
        }
    }

    fn parse(text: &str) -> Result<Self, StoreError> {
        match text {
            "open" => Ok(Self::Open),
            "retrying" => Ok(Self::Retrying),
            "resolved" => Ok(Self::Resolved),
            "discarded" => Ok(Self::Discarded),
            other => Err(StoreError::corrupt("a dead letter's status", other)),
        }
    }
}

/// An event or step that could not be processed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeadLetter {
    /// UUIDv7, or derived from the failed event or step, so that it is stored once.
    pub id: Uuid,
    /// The tenant.
    pub tenant: TenantId,
    /// The checkpoint name of the projection or saga.
    pub consumer: String,
    /// The position of the event.
    pub position: u64,
    /// The id of the event.
    pub event_id: Option<Uuid>,
    /// The step of a saga, or the event type.
    pub subject: String,
    /// A stable error code.
    pub error_code: String,
    /// The error message, without payload.
    pub error: String,
    /// The number of attempts.
    pub attempts: u32,
    /// One entry per attempt.
    pub history: serde_json::Value,
    /// The status.
    pub status: DeadLetterStatus,
    /// The time of the first failure.
    pub first_at: DateTime<Utc>,
    /// The time of the last failure.
    pub last_at: DateTime<Utc>,
}

const COLUMNS: &str = "dead_letter_id, tenant_id, consumer, position, event_id, subject, error_code, error, attempts, \
                       history, status, first_at, last_at";

fn letter_from(row: &Row) -> Result<DeadLetter, StoreError> {
    Ok(DeadLetter {
        id: row.get("dead_letter_id"),
        tenant: TenantId(row.get("tenant_id")),
        consumer: row.get("consumer"),
        position: row.get::<_, i64>("position") as u64,
        event_id: row.get("event_id"),
        subject: row.get("subject"),
        error_code: row.get("error_code"),
        error: row.get("error"),
        attempts: row.get::<_, i32>("attempts") as u32,
        history: serde_json::from_str(row.get("history"))
            .map_err(|error| StoreError::corrupt("a dead letter's history", error))?,
        status: DeadLetterStatus::parse(row.get("status"))?,
        first_at: row.get("first_at"),
        last_at: row.get("last_at"),
    })
}

impl TenantTransaction {
    /// Inserts or replaces a dead letter. A discarded one stays as it is.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer, or when the transaction is read-only.
    pub async fn put_dead_letter(&self, letter: &DeadLetter) -> Result<(), StoreError> {
        self.execute_named(
            "insert into dead_letters (tenant_id, dead_letter_id, consumer, position, event_id, subject, error_code,
                                       error, attempts, history, status, first_at, last_at)
             values (:tenant_id, :dead_letter_id, :consumer, :position, :event_id, :subject, :error_code, :error, :attempts, :history, :status, :first_at, :last_at)
             on conflict (tenant_id, dead_letter_id) do update
             set error_code = excluded.error_code, error = excluded.error, attempts = excluded.attempts,
                 history = excluded.history, status = excluded.status, last_at = excluded.last_at
             where dead_letters.status <> 'discarded'",
            &[("tenant_id", &self.tenant().0), ("dead_letter_id", &letter.id), ("consumer", &letter.consumer), ("position", &(letter.position as i64)), ("event_id", &letter.event_id), ("subject", &letter.subject), ("error_code", &letter.error_code), ("error", &letter.error), ("attempts", &(letter.attempts as i32)), ("history", &letter.history.to_string()), ("status", &letter.status.as_str()), ("first_at", &letter.first_at), ("last_at", &letter.last_at)],
        )
        .await?;
        Ok(())
    }

    /// Sets the status of a dead letter. Returns `false` when the id is unknown.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer, or when the transaction is read-only.
    pub async fn set_dead_letter_status(
        &self,
        id: Uuid,
        status: DeadLetterStatus,
    ) -> Result<bool, StoreError> {
        let changed = self
            .execute(
                "update dead_letters set status = $3 where tenant_id = $1 and dead_letter_id = $2",
                &[&self.tenant().0, &id, &status.as_str()],
            )
            .await?;
        Ok(changed == 1)
    }

    /// Discards a dead letter. Returns `false` when its status is not `seen` any more.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer, or when the transaction is read-only.
    pub async fn discard_dead_letter(&self, id: Uuid, seen: DeadLetterStatus) -> Result<bool, StoreError> {
        let changed = self
            .execute(
                "update dead_letters set status = 'discarded'
                 where tenant_id = $1 and dead_letter_id = $2 and status = $3",
                &[&self.tenant().0, &id, &seen.as_str()],
            )
            .await?;
        Ok(changed == 1)
    }

    /// The newest dead letter of a consumer that is open or being retried.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    /// [`StoreError::Corrupt`] when the status or the history of a stored dead letter is invalid.
    pub async fn unsettled_dead_letter(&self, consumer: &str) -> Result<Option<DeadLetter>, StoreError> {
        let sql = format!(
            "select {COLUMNS} from dead_letters
             where tenant_id = $1 and consumer = $2 and status in ('open', 'retrying')
             order by dead_letter_id desc limit 1"
        );
        self.query_opt(&sql, &[&self.tenant().0, &consumer]).await?.as_ref().map(letter_from).transpose()
    }
}

impl Store {
    /// A page of dead letters, oldest first, of one tenant or of all.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    /// [`StoreError::Corrupt`] when the status or the history of a stored dead letter is invalid.
    pub async fn dead_letters(
        &self,
        tenant: Option<TenantId>,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let sql = format!(
            "select {COLUMNS} from dead_letters
             where ($1::uuid is null or tenant_id = $1) and ($2::uuid is null or dead_letter_id > $2)
             order by dead_letter_id limit $3"
        );
        let tenant = tenant.map(|tenant| tenant.0);
        let rows =
            get(&self.0.pools.worker).await?.query(&sql, &[&tenant, &after, &i64::from(limit)]).await?;
        rows.iter().map(letter_from).collect()
    }

    /// The open or retrying dead letters of a consumer, of all tenants: they block the consumer.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn unsettled_dead_letters(&self, consumer: &str) -> Result<Vec<(TenantId, Uuid)>, StoreError> {
        let sql = "select tenant_id, dead_letter_id from dead_letters
                   where consumer = $1 and status in ('open', 'retrying') order by dead_letter_id";
        let rows = get(&self.0.pools.worker).await?.query(sql, &[&consumer]).await?;
        Ok(rows.iter().map(|row| (TenantId(row.get(0)), row.get(1))).collect())
    }

    /// The dead letter with this id.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    /// [`StoreError::Corrupt`] when the status or the history of a stored dead letter is invalid.
    pub async fn dead_letter(&self, id: Uuid) -> Result<Option<DeadLetter>, StoreError> {
        let sql = format!("select {COLUMNS} from dead_letters where dead_letter_id = $1");
        get(&self.0.pools.worker).await?.query_opt(&sql, &[&id]).await?.as_ref().map(letter_from).transpose()
    }
}
