//! The activity log: sign-ins, refusals, rejected commands, what auditors and operators looked at. Entries end after a
//! while; what must last is an event.

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::{StoreError, TenantStore};

/// The outcome of what was not refused.
pub const ACCEPTED: &str = "accepted";
/// Entries that one sweep removes at once.
const BATCH_ROWS_MAX: i64 = 10_000;

/// What sort of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivityKind {
    /// Somebody signed in, or tried to.
    SignIn,
    /// A request was refused: no token, a wrong one, too few rights.
    Refusal,
    /// A command was rejected.
    RejectedCommand,
    /// History, proofs or this log were read by somebody who audits.
    AuditAccess,
    /// An operator did something on the command line or over the admin listener.
    OperatorAccess,
    /// A credential or a key was issued, exchanged, handed out or revoked.
    CredentialChange,
    /// A user was added or deactivated, roles were given or taken, or a tenant was registered.
    RightsChange,
}

impl ActivityKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::SignIn,
        Self::Refusal,
        Self::RejectedCommand,
        Self::AuditAccess,
        Self::OperatorAccess,
        Self::CredentialChange,
        Self::RightsChange,
    ];

    /// The kind as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SignIn => "sign_in",
            Self::Refusal => "refusal",
            Self::RejectedCommand => "rejected_command",
            Self::AuditAccess => "audit_access",
            Self::OperatorAccess => "operator_access",
            Self::CredentialChange => "credential_change",
            Self::RightsChange => "rights_change",
        }
    }

    /// The kind of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Activity {
    /// UUIDv7: in the order of time.
    pub id: Uuid,
    /// When.
    pub at: DateTime<Utc>,
    /// What sort of thing.
    pub kind: ActivityKind,
    /// Who, as events name it: `user:<id>`, `service:<id>`, `anonymous`, or `operator:<name>`.
    pub actor: String,
    /// What was asked for: method and route, a command, an operator's command line.
    pub action: String,
    /// `accepted`, or the code of the refusal.
    pub outcome: String,
    /// How often; above 1 where entries like this one came too quickly to be kept one by one.
    pub count: u64,
    /// The request's id.
    pub request_id: Option<String>,
    /// Where the request came from.
    pub address: Option<String>,
}

/// Which entries to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct ActivityFilter {
    /// Of this kind.
    pub kind: Option<ActivityKind>,
    /// Older than this entry.
    pub before: Option<Uuid>,
    /// From this time on.
    pub since: Option<DateTime<Utc>>,
    /// Up to this time.
    pub until: Option<DateTime<Utc>>,
}

impl Activity {
    /// Whether the entry is kept by itself, however quickly entries come: accepted sign-ins, and changes of rights,
    /// credentials and keys.
    pub fn is_protected(&self) -> bool {
        match self.kind {
            ActivityKind::CredentialChange | ActivityKind::RightsChange | ActivityKind::OperatorAccess => {
                true
            }
            ActivityKind::SignIn => self.outcome == ACCEPTED,
            ActivityKind::Refusal | ActivityKind::RejectedCommand | ActivityKind::AuditAccess => false,
        }
    }
}

impl TenantStore {
    /// Keeps entries of this tenant.
    pub async fn record_activities(&self, activities: &[Activity]) -> Result<(), StoreError> {
        let rows = serde_json::to_string(activities)
            .map_err(|error| StoreError::Corrupt(format!("an activity does not serialise: {error}")))?;
        let transaction = self.begin_worker_transaction().await?;
        transaction
            .execute(
                "insert into activities (tenant_id, activity_id, at, kind, actor, action, outcome, count, request_id, address)
                 select $1, id, at, kind, actor, action, outcome, count, request_id, address
                 from json_to_recordset($2::text::json) as a(id uuid, at timestamptz, kind text, actor text, action text,
                     outcome text, count bigint, request_id text, address text)
                 on conflict do nothing",
                &[&self.id().0, &rows],
            )
            .await?;
        transaction.commit().await
    }

    /// At most `limit` entries, the newest first.
    pub async fn activities(
        &self,
        filter: ActivityFilter,
        limit: usize,
    ) -> Result<Vec<Activity>, StoreError> {
        let kind = filter.kind.map(ActivityKind::as_str);
        let limit = limit as i64;
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&self.id().0, &kind, &filter.before, &filter.since, &filter.until, &limit];
        let transaction = self.begin().await?;
        let rows = transaction
            .query(
                "select activity_id, at, kind, actor, action, outcome, count, request_id, address from activities
                 where tenant_id = $1 and ($2::text is null or kind = $2) and ($3::uuid is null or activity_id < $3)
                   and ($4::timestamptz is null or at >= $4) and ($5::timestamptz is null or at <= $5)
                 order by activity_id desc limit $6",
                &parameters,
            )
            .await?;
        transaction.commit().await?;
        let read = |row: &tokio_postgres::Row| {
            let kind: &str = row.get(2);
            Ok(Activity {
                id: row.get(0),
                at: row.get(1),
                kind: ActivityKind::parse(kind).ok_or_else(|| StoreError::corrupt("an activity", kind))?,
                actor: row.get(3),
                action: row.get(4),
                outcome: row.get(5),
                count: row.get::<_, i64>(6) as u64,
                request_id: row.get(7),
                address: row.get(8),
            })
        };
        rows.iter().map(read).collect()
    }

    /// Removes entries that are older than `before`, and of each kind and outcome those beyond the newest `max`: anonymous
    /// callers can make refusals without end, and must not displace what else is known. At most `BATCH_ROWS_MAX` go at once.
    /// Returns how many went; as long as there are any, there may be more.
    ///
    /// # Errors
    /// [`StoreError`] where the database does not answer.
    pub async fn expire_activities(&self, before: DateTime<Utc>, max: u64) -> Result<u64, StoreError> {
        let transaction = self.begin_worker_transaction().await?;
        let tenant = self.id().0;
        let mut removed = transaction
            .execute(
                "delete from activities where tenant_id = $1 and activity_id in (
                     select activity_id from activities where tenant_id = $1 and at < $2
                     order by activity_id limit $3)",
                &[&tenant, &before, &BATCH_ROWS_MAX],
            )
            .await?;
        let offset = max.saturating_sub(1) as i64;
        for kind in ActivityKind::ALL {
            for accepted in [false, true] {
                removed += transaction
                    .execute(
                        "delete from activities where tenant_id = $1 and activity_id in (
                             select activity_id from activities
                             where tenant_id = $1 and kind = $2 and (outcome = 'accepted') = $3
                               and activity_id < (select activity_id from activities
                                                  where tenant_id = $1 and kind = $2 and (outcome = 'accepted') = $3
                                                  order by activity_id desc offset $4 limit 1)
                             order by activity_id limit $5)",
                        &[&tenant, &kind.as_str(), &accepted, &offset, &BATCH_ROWS_MAX],
                    )
                    .await?;
            }
        }
        transaction.commit().await?;
        Ok(removed)
    }
}
