//! Replaces the log of a tenant after the database was restored to an earlier state.
//!
//! Positions that consumers hold may then refer to lost events.
//! The kept events continue under a new log id (`docs/adr/0008`), so that old positions never match new events.

mod cited_note;

use chrono::{DateTime, Utc};
use proofs::{CommitmentKind, Frame, Salt, commitment, leaf_hash};
use schemas::engine::{Actor, LogId, Metadata, TenantId, TenantSlug, clock, ids};
use schemas::platform::log::{self, LogEvent, LogReplaced};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Transaction};
use uuid::Uuid;

use self::cited_note::StoredNote;
use crate::event_ids::EventIds;
use crate::pools::{DatabaseRole, Logins, get};
use crate::signals::Signals;
use crate::{NewEvent, Store, StoreError, TenantStore};

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

/// The last event of a log that is known to have been published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedEvent {
    /// The slug of the tenant.
    pub slug: TenantSlug,
    /// The log of the event.
    pub log_id: LogId,
    /// The position of the event.
    pub position: u64,
    /// The id of the event.
    pub event_id: Uuid,
}

/// The log ids by position. The leaf of an event keeps the log id under which it was written, even after a replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogIds {
    current: LogId,
    /// Earlier log ids with their last positions, ascending.
    replaced: Vec<(u64, LogId)>,
}

impl LogIds {
    /// The log id under which the event at this position was written.
    pub fn at(&self, position: u64) -> LogId {
        let after = self.replaced.partition_point(|(last, _)| *last < position);
        self.replaced.get(after).map_or(self.current, |(_, log_id)| *log_id)
    }
}

const COLUMNS: &str =
    "tenant_id, log_id, last_position, next_log_id, published_to, reason, replaced_at, signed_to";

impl Store {
    /// Replaces logs, each in its own transaction, and returns the replaced ones.
    /// Skips a log that is not current any more, and one that does not end before `ends_before`.
    pub async fn replace_logs(
        &self,
        wanted: &[Replacement],
        reason: &str,
        actor: &Actor,
    ) -> Result<Vec<ReplacedLog>, StoreError> {
        replace_all(&self.0.pools.logins, &self.0.signals, &self.0.event_ids, wanted, reason, actor).await
    }

    /// Replaces the logs that end before a position at which an event was seen.
    pub async fn replace_logs_ending_before(
        &self,
        seen: impl Iterator<Item = (TenantId, LogId, u64)> + Send,
    ) -> Result<(), StoreError> {
        let seen = SeenPositions::new(seen);
        let behind = get(&self.0.pools.worker)
            .await?
            .query(SeenPositions::REGRESSED_HEADS, &seen.parameters())
            .await?;
        replace_regressed_logs(&self.0.pools.logins, &self.0.signals, &self.0.event_ids, &behind).await
    }

    /// All replaced logs of all tenants, oldest first.
    pub async fn replaced_logs(&self) -> Result<Vec<ReplacedLog>, StoreError> {
        let statement = format!("select {COLUMNS} from replaced_logs order by replaced_at, tenant_id");
        let rows = get(&self.0.pools.worker).await?.query(&statement, &[]).await?;
        Ok(rows.iter().map(replaced_from).collect())
    }

    /// Finds current logs that lack one of these published events, because the database has lost it.
    /// Events are published only after their commit, so a healthy database has all of them.
    pub async fn find_lost_logs(&self, published: &[PublishedEvent]) -> Result<Vec<Replacement>, StoreError> {
        let slugs: Vec<&str> = published.iter().map(|event| event.slug.as_str()).collect();
        let logs: Vec<Uuid> = published.iter().map(|event| event.log_id.0).collect();
        let positions: Vec<i64> = published.iter().map(|event| event.position as i64).collect();
        let events: Vec<Uuid> = published.iter().map(|event| event.event_id).collect();
        let rows = get(&self.0.pools.relay)
            .await?
            .query(
                "select t.tenant_id, h.log_id, w.position
                 from unnest($1::text[], $2::uuid[], $3::int8[], $4::uuid[]) as w(slug, log_id, position, event_id)
                 join tenants t on t.slug = w.slug
                 join heads h on h.tenant_id = t.tenant_id and h.log_id = w.log_id
                 where not exists (select from events e where e.tenant_id = t.tenant_id and e.position = w.position
                                   and e.event_id = w.event_id)
                 order by t.tenant_id",
                &[&slugs, &logs, &positions, &events],
            )
            .await?;
        Ok(rows.iter().map(replacement_from).collect())
    }
}

impl TenantStore {
    /// The log ids of the tenant by position.
    pub async fn log_ids(&self) -> Result<LogIds, StoreError> {
        let transaction = self.begin_snapshot().await?;
        let current = transaction.head().await?.log_id;
        let statement =
            "select last_position, log_id from replaced_logs where tenant_id = $1 order by last_position";
        let rows = transaction.query(statement, &[&self.id().0]).await?;
        transaction.commit().await?;
        let replaced = rows.iter().map(|row| (row.get::<_, i64>(0) as u64, LogId(row.get(1)))).collect();
        Ok(LogIds { current, replaced })
    }

    /// The replaced log of this tenant with this log id.
    pub async fn replaced_log(&self, log_id: LogId) -> Result<Option<ReplacedLog>, StoreError> {
        let statement = format!("select {COLUMNS} from replaced_logs where tenant_id = $1 and log_id = $2");
        let transaction = self.begin().await?;
        let row = transaction.query_opt(&statement, &[&self.id().0, &log_id.0]).await?;
        transaction.commit().await?;
        Ok(row.as_ref().map(replaced_from))
    }
}

/// Positions at which this process has seen events.
#[derive(Default)]
pub(crate) struct SeenPositions {
    tenants: Vec<Uuid>,
    logs: Vec<Uuid>,
    positions: Vec<i64>,
}

impl SeenPositions {
    pub(crate) fn new(seen: impl Iterator<Item = (TenantId, LogId, u64)>) -> Self {
        let mut all = Self::default();
        for (tenant, log_id, position) in seen {
            all.tenants.push(tenant.0);
            all.logs.push(log_id.0);
            all.positions.push(position as i64);
        }
        all
    }

    /// Finds the heads below these positions. Needs a role that reads all heads, and [`parameters`](Self::parameters).
    pub(crate) const REGRESSED_HEADS: &str = "select h.tenant_id, h.log_id, w.position
         from unnest($1::uuid[], $2::uuid[], $3::int8[]) as w(tenant_id, log_id, position)
         join heads h on h.tenant_id = w.tenant_id and h.log_id = w.log_id and h.position < w.position
         order by h.tenant_id";

    pub(crate) fn parameters(&self) -> [&(dyn ToSql + Sync); 3] {
        [&self.tenants, &self.logs, &self.positions]
    }
}

/// Replaces the logs whose head is below a seen position. `behind` has the rows of
/// [`SeenPositions::REGRESSED_HEADS`].
pub(crate) async fn replace_regressed_logs(
    logins: &Logins,
    signals: &Signals,
    event_ids: &EventIds,
    behind: &[Row],
) -> Result<(), StoreError> {
    let seen = |row: &Row| {
        let lost = replacement_from(row);
        Replacement { ends_before: lost.published_to, ..lost }
    };
    let lost: Vec<Replacement> = behind.iter().map(seen).collect();
    let reason = "the log ends before an event that was read or written";
    replace_all(logins, signals, event_ids, &lost, reason, &Actor::system("appender")).await.map(drop)
}

async fn replace_all(
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
        signals.announce_head(done.tenant, done.last_position + 1);
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
    let event = NewEvent::encode(&LogEvent::Replaced(LogReplaced {
        old_log_id: done.log_id,
        new_log_id: done.next_log_id,
        kept_to: done.last_position,
        published_to: done.published_to,
        checkpoint,
        reason: done.reason.clone(),
    }))
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
        payload_encoding: crate::append::PAYLOAD_JSON,
        payload_commitment: commitment(CommitmentKind::Payload, payload_salt, &event.payload),
        metadata_commitment: commitment(CommitmentKind::Metadata, metadata_salt, &metadata),
        subject_keys: &[],
    };
    let leaf = leaf_hash(&frame.encode().expect("the names are short"));
    let parameters: [&(dyn ToSql + Sync); 12] = [
        &done.tenant.0,
        &(done.last_position as i64 + 1),
        &version,
        &done.replaced_at,
        &event_id,
        &(event.event_type.schema_version() as i32),
        &stream.as_str(),
        &event.event_type.as_str(),
        &&event.payload[..],
        &metadata,
        &&salts[..],
        &&leaf[..],
    ];
    transaction
        .execute(
            "insert into events (tenant_id, position, version, recorded_at, event_id, schema_version, payload_encoding,
                                 stream, type, payload, metadata, salts, subject_keys, leaf_hash)
             values ($1, $2, $3, $4, $5, $6, 1, $7, $8, $9, $10, $11, '', $12)",
            &parameters,
        )
        .await?;
    Ok(())
}

fn replacement_from(row: &Row) -> Replacement {
    let published_to = Some(row.get::<_, i64>(2) as u64);
    Replacement { published_to, ..Replacement::of(TenantId(row.get(0)), LogId(row.get(1))) }
}

fn replaced_from(row: &Row) -> ReplacedLog {
    ReplacedLog {
        tenant: TenantId(row.get(0)),
        log_id: LogId(row.get(1)),
        last_position: row.get::<_, i64>(2) as u64,
        next_log_id: LogId(row.get(3)),
        published_to: row.get::<_, Option<i64>>(4).map(|position| position as u64),
        signed_to: row.get::<_, Option<i64>>(7).map(|position| position as u64),
        reason: row.get(5),
        replaced_at: row.get(6),
    }
}
