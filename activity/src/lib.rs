//! The activity log: sign-ins, refusals, rejected commands, and accesses of auditors and operators.
//!
//! Entries are kept for a limited time. Facts that must be kept are events instead.

use chrono::{DateTime, Utc};
use serde::Serialize;
use store::sql::Row;
use store::{StoreError, TenantStore};
use uuid::Uuid;

/// The outcome of an entry without a refusal.
pub const ACCEPTED: &str = "accepted";
/// Maximum rows per delete statement.
const BATCH_ROWS_MAX: i64 = 10_000;

/// The kind of an activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivityKind {
    /// A sign-in, or an attempt.
    SignIn,
    /// A refused request: no token, an invalid token, or missing rights.
    Refusal,
    /// A command was rejected.
    RejectedCommand,
    /// An auditor read history, proofs or this log.
    AuditAccess,
    /// An operator acted on the command line or on the admin listener.
    OperatorAccess,
    /// A credential or a key was issued, exchanged, exported or revoked.
    CredentialChange,
    /// A user was added or deactivated, roles changed, or a tenant was registered.
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

    /// Parses the name of a kind.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// One entry of the activity log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Activity {
    /// UUIDv7, so ids are in the order of time.
    pub id: Uuid,
    /// The time.
    pub at: DateTime<Utc>,
    /// The kind.
    pub kind: ActivityKind,
    /// The actor, as in events: `user:<id>`, `service:<id>`, `anonymous` or `operator:<name>`.
    pub actor: String,
    /// The requested action: method and route, a command, or an operator's command line.
    pub action: String,
    /// `accepted`, or the error code of the refusal.
    pub outcome: String,
    /// The number of occurrences; above 1 when too many like entries came at once and were combined.
    pub count: u64,
    /// The id of the request.
    pub request_id: Option<String>,
    /// The network address of the client.
    pub address: Option<String>,
}

/// Selects entries of the activity log; `None` selects all.
#[derive(Debug, Clone, Copy, Default)]
pub struct ActivityFilter {
    /// Only this kind.
    pub kind: Option<ActivityKind>,
    /// Only entries older than this one.
    pub before: Option<Uuid>,
    /// Only from this time on.
    pub since: Option<DateTime<Utc>>,
    /// Only up to this time.
    pub until: Option<DateTime<Utc>>,
}

impl Activity {
    /// Whether the entry is always stored alone, even at a high rate.
    /// These are accepted sign-ins, operator accesses, and changes of rights, credentials and keys.
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

/// Stores entries of this tenant. Entries with a known id are ignored.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
/// [`StoreError::Database`] when a text of an entry has a NUL character.
pub async fn record(tenant: &TenantStore, activities: &[Activity]) -> Result<(), StoreError> {
    let rows = serde_json::to_string(activities)
        .map_err(|error| StoreError::Corrupt(format!("an activity does not serialise: {error}")))?;
    let transaction = tenant.begin_worker_transaction().await?;
    transaction
        .execute(
            "insert into activities (tenant_id, activity_id, at, kind, actor, action, outcome, count, request_id, address)
             select $1, id, at, kind, actor, action, outcome, count, request_id, address
             from json_to_recordset($2::text::json) as a(id uuid, at timestamptz, kind text, actor text, action text,
                 outcome text, count bigint, request_id text, address text)
             on conflict do nothing",
            &[&tenant.id().0, &rows],
        )
        .await?;
    transaction.commit().await
}

/// The newest entries that match, at most `limit`, newest first.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
/// [`StoreError::Corrupt`] when a stored entry has an unknown kind.
pub async fn page(
    tenant: &TenantStore,
    filter: ActivityFilter,
    limit: usize,
) -> Result<Vec<Activity>, StoreError> {
    let kind = filter.kind.map(ActivityKind::as_str);
    let limit = limit as i64;
    let transaction = tenant.begin().await?;
    let rows = transaction
        .query_named(
            "select activity_id, at, kind, actor, action, outcome, count, request_id, address from activities
             where tenant_id = :tenant_id and (:kind::text is null or kind = :kind)
               and (:before::uuid is null or activity_id < :before)
               and (:since::timestamptz is null or at >= :since) and (:until::timestamptz is null or at <= :until)
             order by activity_id desc limit :limit",
            &[
                ("tenant_id", &tenant.id().0),
                ("kind", &kind),
                ("before", &filter.before),
                ("since", &filter.since),
                ("until", &filter.until),
                ("limit", &limit),
            ],
        )
        .await?;
    transaction.commit().await?;
    let read = |row: &Row| {
        let kind: &str = row.get("kind");
        Ok(Activity {
            id: row.get("activity_id"),
            at: row.get("at"),
            kind: ActivityKind::parse(kind).ok_or_else(|| StoreError::corrupt("an activity", kind))?,
            actor: row.get("actor"),
            action: row.get("action"),
            outcome: row.get("outcome"),
            count: row.get::<_, i64>("count") as u64,
            request_id: row.get("request_id"),
            address: row.get("address"),
        })
    };
    rows.iter().map(read).collect()
}

/// Removes entries older than `before`, and for each kind and outcome the entries beyond the newest `max`.
///
/// The limit is per kind, because anonymous callers can cause any number of refusals.
/// Each call removes a bounded number of rows and returns it; call again until it returns 0.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn expire(tenant: &TenantStore, before: DateTime<Utc>, max: u64) -> Result<u64, StoreError> {
    let transaction = tenant.begin_worker_transaction().await?;
    let tenant_id = tenant.id().0;
    let mut removed = transaction
        .execute(
            "delete from activities where tenant_id = $1 and activity_id in (
                 select activity_id from activities where tenant_id = $1 and at < $2
                 order by activity_id limit $3)",
            &[&tenant_id, &before, &BATCH_ROWS_MAX],
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
                    &[&tenant_id, &kind.as_str(), &accepted, &offset, &BATCH_ROWS_MAX],
                )
                .await?;
        }
    }
    transaction.commit().await?;
    Ok(removed)
}
