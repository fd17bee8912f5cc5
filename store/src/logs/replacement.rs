//! Replaces a log: its kept events continue under a new log id.

use chrono::{DateTime, Utc};
use database::{NamedSql, Parameter};
use proofs::{CommitmentKind, Frame, Salt, commitment, leaf_hash};
use schemas::engine::{Actor, LogId, Metadata, TenantId, clock, ids};
use schemas::platform::log::{self, LogEvent};
use tokio_postgres::{Client, Row, Transaction};
use uuid::Uuid;

use super::cited_note::{self, StoredNote};
use crate::StoreError;
use crate::append::{NewEvent, PAYLOAD_JSON};
use crate::event_ids::EventIds;
use crate::pools::{DatabaseRole, Logins};
use crate::signals::Signals;

/// A replaced log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplacedLog {
    /// The tenant.
    pub tenant: TenantId,
    /// The log id before.
    pub log_id: LogId,
    /// The last position that the new log has kept.
    pub last_position: u64,
    /// The log id after.
    pub next_log_id: LogId,
    /// The last position of the old log that is known to have been published, if any is known.
    pub published_to: Option<u64>,
    /// The number of signed events of the old log, by the newest known checkpoint.
    pub signed_to: Option<u64>,
    /// The reason, for operators.
    pub reason: String,
    /// The time of the replacement.
    pub replaced_at: DateTime<Utc>,
}

/// A request to replace a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// The tenant.
    pub tenant: TenantId,
    /// The log to replace.
    pub log_id: LogId,
    /// The last position that is known to have been published, if any is known.
    pub published_to: Option<u64>,
    /// Replace only if the log still ends before this position when its head is locked.
    pub ends_before: Option<u64>,
    /// Signed checkpoints of the log from outside the database.
    /// The replacement event cites the newest valid one of these and the stored one.
    pub checkpoints: Vec<String>,
}

impl Replacement {
    /// Replaces this log unconditionally, without knowledge from outside.
    pub fn of(tenant: TenantId, log_id: LogId) -> Self {
        Self { tenant, log_id, published_to: None, ends_before: None, checkpoints: Vec::new() }
    }
}

pub(super) const COLUMNS: &str =
    "tenant_id, log_id, last_position, next_log_id, published_to, reason, replaced_at, signed_to";

/// Replaces logs, each in its own transaction, and returns the replaced ones.
pub(crate) async fn replace_all(
    logins: &Logins,
    signals: &Signals,
    event_ids: &EventIds,
    wanted: &[Replacement],
    reason: &str,
    actor: &Actor,
) -> Result<Vec<ReplacedLog>, StoreError> {
    let mut replaced = Vec::new();
    if wanted.is_empty() {
        return Ok(replaced);
    }
    let mut connection =
        logins.of(DatabaseRole::Appender).with_options("-c synchronous_commit=on").connect().await?;
    for replacement in wanted {
        let client = &mut connection.client;
        let Some(done) = replace(client, replacement, reason, actor, event_ids).await? else { continue };
        metrics::counter!("annals_logs_replaced_total").increment(1);
        tracing::warn!(
            tenant = %done.tenant, old = %done.log_id, new = %done.next_log_id, kept_to = done.last_position,
            published_to = done.published_to, signed_to = done.signed_to, reason,
            "the log was replaced: the database went back to an earlier state"
        );
        signals.announce_head(done.tenant, done.next_log_id, done.last_position + 1);
        replaced.push(done);
    }
    Ok(replaced)
}

/// Replaces one log. The lock on the head blocks appends; they then find another log id and are planned again.
async fn replace(
    client: &mut Client,
    wanted: &Replacement,
    reason: &str,
    actor: &Actor,
    event_ids: &EventIds,
) -> Result<Option<ReplacedLog>, StoreError> {
    let transaction = client.transaction().await?;
    let tenant = wanted.tenant.0;
    let set = "select set_config('annals.tenants', $1, true)";
    transaction.query_one(set, &[&tenant.to_string()]).await?;
    let head = transaction
        .query_opt(
            "select position, recorded_at from heads where tenant_id = $1 and log_id = $2 for update",
            &[&tenant, &wanted.log_id.0],
        )
        .await?;
    let Some(head) = head else { return Ok(None) };
    let last_position = head.get::<_, i64>(0) as u64;
    if wanted.ends_before.is_some_and(|position| last_position >= position) {
        return Ok(None);
    }
    let kept = transaction
        .query_opt(
            "select note, verifier_key from sealed_logs where tenant_id = $1 and log_id = $2 and size > 0",
            &[&tenant, &wanted.log_id.0],
        )
        .await?;
    let kept = kept.map(|row| StoredNote { note: row.get(0), verifier_key: row.get(1) });
    let cited_note = cited_note::newest(wanted.log_id, kept, &wanted.checkpoints);
    let done = ReplacedLog {
        tenant: wanted.tenant,
        log_id: wanted.log_id,
        last_position,
        next_log_id: LogId(ids::random_id()),
        published_to: wanted.published_to,
        signed_to: cited_note.as_ref().map(|cited_note| cited_note.size),
        reason: reason.to_owned(),
        replaced_at: clock::now().max(head.get(1)),
    };
    let event_id = event_ids.make(done.tenant);
    append_replacement_event(
        &transaction,
        event_id,
        &done,
        cited_note.map(|cited_note| cited_note.note),
        actor,
    )
    .await?;
    let last = last_position as i64;
    let [published, signed] =
        [done.published_to, done.signed_to].map(|position| position.map(|position| position as i64));
    transaction
        .execute(
            "insert into replaced_logs (tenant_id, log_id, last_position, next_log_id, published_to, reason, replaced_at,
                                        signed_to)
             values ($1, $2, $3, $4, $5, $6, $7, $8)",
            &[
                &tenant,
                &done.log_id.0,
                &last,
                &done.next_log_id.0,
                &published,
                &done.reason,
                &done.replaced_at,
                &signed,
            ],
        )
        .await?;
    transaction
        .execute(
            "update heads set log_id = $2, position = $3, recorded_at = $4, fence = $5 where tenant_id = $1",
            &[&tenant, &done.next_log_id.0, &(last + 1), &done.replaced_at, &event_id],
        )
        .await?;
    // A checkpoint up to the kept position stays valid and moves to the new log.
    // A later one stays at the old log: its consumer has processed lost events and must report that.
    transaction
        .execute(
            "update checkpoints set log_id = $3 where tenant_id = $1 and log_id = $2 and position <= $4",
            &[&tenant, &done.log_id.0, &done.next_log_id.0, &last],
        )
        .await?;
    transaction.commit().await?;
    Ok(Some(done))
}

/// Appends the event that cites the old log, as the first event of the new log.
async fn append_replacement_event(
    transaction: &Transaction<'_>,
    event_id: Uuid,
    done: &ReplacedLog,
    checkpoint: Option<String>,
    actor: &Actor,
) -> Result<(), StoreError> {
    let event = NewEvent::encode(&LogEvent::Replaced {
        old_log_id: done.log_id,
        new_log_id: done.next_log_id,
        kept_to: done.last_position,
        published_to: done.published_to,
        checkpoint,
        reason: done.reason.clone(),
    })
    .expect("the fact serialises");
    let metadata =
        serde_json::to_vec(&Metadata::new(actor.clone(), ids::new_id())).expect("metadata serialise");
    // Each replacement adds one row here and one event to this stream.
    let count = "select count(*) from replaced_logs where tenant_id = $1";
    let version = transaction.query_one(count, &[&done.tenant.0]).await?.get::<_, i64>(0) + 1;
    let stream = log::stream(done.tenant);
    let salts: [u8; 32] = rand::random();
    let payload_salt: &Salt = salts.first_chunk().expect("32 bytes hold one salt");
    let metadata_salt: &Salt = salts.last_chunk().expect("32 bytes hold another");
    let frame = Frame {
        log_id: done.next_log_id.0,
        event_id,
        stream: stream.as_str(),
        version: version as u64,
        event_type: event.event_type.as_str(),
        schema_version: event.event_type.schema_version(),
        recorded_at: done.replaced_at.timestamp_micros(),
        payload_encoding: PAYLOAD_JSON,
        payload_commitment: commitment(CommitmentKind::Payload, payload_salt, &event.payload),
        metadata_commitment: commitment(CommitmentKind::Metadata, metadata_salt, &metadata),
        subject_keys: &[],
    };
    let leaf = leaf_hash(&frame.encode().expect("the names are short"));
    let insert = NamedSql::parse(
        "insert into events (tenant_id, position, version, recorded_at, event_id, schema_version, payload_encoding,
                             stream, type, payload, metadata, salts, subject_keys, leaf_hash)
         values (:tenant_id, :position, :version, :recorded_at, :event_id, :schema_version, 1, :stream, :type,
                 :payload, :metadata, :salts, '', :leaf_hash)",
    );
    let schema_version = event.event_type.schema_version() as i32;
    let parameters: [Parameter<'_>; 12] = [
        ("tenant_id", &done.tenant.0),
        ("position", &(done.last_position as i64 + 1)),
        ("version", &version),
        ("recorded_at", &done.replaced_at),
        ("event_id", &event_id),
        ("schema_version", &schema_version),
        ("stream", &stream.as_str()),
        ("type", &event.event_type.as_str()),
        ("payload", &&event.payload[..]),
        ("metadata", &metadata),
        ("salts", &&salts[..]),
        ("leaf_hash", &&leaf[..]),
    ];
    transaction.execute(&insert.text, &insert.bind(&parameters)).await?;
    Ok(())
}

pub(super) fn replaced_from(row: &Row) -> ReplacedLog {
    let position = |column: &str| row.get::<_, Option<i64>>(column).map(|position| position as u64);
    ReplacedLog {
        tenant: TenantId(row.get("tenant_id")),
        log_id: LogId(row.get("log_id")),
        last_position: row.get::<_, i64>("last_position") as u64,
        next_log_id: LogId(row.get("next_log_id")),
        published_to: position("published_to"),
        signed_to: position("signed_to"),
        reason: row.get("reason"),
        replaced_at: row.get("replaced_at"),
    }
}
