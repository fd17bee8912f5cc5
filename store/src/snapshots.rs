//! Snapshots of folds over streams: a load starts from the newest one and reads the events after it (`docs/adr/0040`).
//!
//! A snapshot is a cache in the database. It counts for one log and for one version of the fold's source code.
//! One with personal data is encrypted with the keys of its subjects, so an erasure makes it unreadable.

use std::fmt::Write as _;
use std::sync::Arc;

use async_stream::try_stream;
use chrono::{DateTime, Utc};
use database::{RawRow, RawRows, Read, Value};
use futures::Stream;
use keyring::KeyringError;
use schemas::engine::sealed::{OPEN, SEALED};
use schemas::engine::{LogId, RecordedEvent, StreamName, ids};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::heads::{HEAD, field, head_in};
use crate::read::{COLUMNS, PAGE_LIMIT, ensure_same_log, page_sql};
use crate::streams::StreamRows;
use crate::{Causes, StoreError, TenantStore};

/// Versions of a stream after which a fold gets another snapshot.
pub const SNAPSHOT_INTERVAL: u64 = 256;
/// Maximum bytes of a state that is kept.
const STATE_BYTES_MAX: usize = 1024 * 1024;
/// Maximum snapshots of one load that are kept. A further load continues from the last one.
pub const SNAPSHOTS_PER_LOAD_MAX: usize = 64;

/// The label of the rows' tags.
const LABEL: &str = "snapshot";

/// A fold whose states are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotFold {
    /// Its name, unique among the folds over a stream.
    pub name: &'static str,
    /// The fingerprint of its source code. Other code may fold to another state.
    pub fingerprint: u64,
}

/// Where a load ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// The last event.
    Head,
    /// The event with this version.
    Version(u64),
    /// The last event up to this position of the log.
    Position(u64),
    /// The last event that was recorded by then.
    Time(DateTime<Utc>),
}

/// The state of a fold after an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The version of the event.
    pub version: u64,
    /// The position of the event.
    pub position: u64,
    /// When the event was recorded.
    pub recorded_at: DateTime<Utc>,
    /// The log of the event.
    pub log_id: LogId,
    /// The state as JSON.
    pub state: Json,
    /// The subjects whose personal data the state may have.
    pub subjects: Vec<Uuid>,
}

/// The newest usable snapshot of a stream, and the events after it.
pub struct LoadedStream {
    /// The snapshot, if there is one.
    pub snapshot: Option<Snapshot>,
    log_id: LogId,
    next_version: u64,
    events: Vec<RecordedEvent>,
    is_full: bool,
}

/// A page of events, and the snapshot before it.
struct FoundStream {
    page: StreamRows,
    snapshot: Option<RawRows>,
}

fn bigint(value: u64) -> Value<'static> {
    Value::Int8(i64::try_from(value).unwrap_or(i64::MAX))
}

impl StreamEnd {
    /// The condition on a row of a stream or a snapshot, with parameter `number`, and the value of the parameter.
    fn condition(self, number: usize) -> Option<(String, Value<'static>)> {
        match self {
            Self::Head => None,
            Self::Version(version) => Some((format!(" and version <= ${number}"), bigint(version))),
            Self::Position(position) => Some((format!(" and position <= ${number}"), bigint(position))),
            Self::Time(time) => Some((format!(" and recorded_at <= ${number}"), Value::Timestamptz(time))),
        }
    }
}

impl TenantStore {
    /// Loads a stream up to `end`: the newest snapshot of the fold, of at most `snapshot_version_max`, and a first page of
    /// the events after it, in one round trip.
    ///
    /// # Errors
    /// [`StoreError::TenantUnknown`] when the tenant does not exist.
    /// [`StoreError::LogReplaced`] when the tenant has another log than `log`.
    /// [`StoreError::InvariantViolated`] when the versions have a gap.
    /// [`StoreError::KeyMissing`] when the key of an event is neither stored nor destroyed.
    pub async fn load_stream(
        &self,
        fold: &SnapshotFold,
        log: Option<LogId>,
        stream: &StreamName,
        snapshot_version_max: u64,
        end: StreamEnd,
    ) -> Result<LoadedStream, StoreError> {
        let mut found = self.find_stream(fold, stream, Some(snapshot_version_max), end).await?;
        let mut snapshot = None;
        if let Some(row) = found.snapshot.as_ref().and_then(|rows| rows.iter().next()) {
            snapshot = self.open_snapshot(fold, stream, row).await?;
            if snapshot.is_none() {
                // An unusable snapshot is dropped, and the stream is read from its start.
                metrics::counter!("annals_snapshots_total", "outcome" => "unusable").increment(1);
                self.drop_snapshots(fold, stream).await?;
                found = self.find_stream(fold, stream, None, end).await?;
            }
        }
        let page = found.page;
        ensure_same_log(log, page.head.log_id)?;
        let first = snapshot.as_ref().map_or(1, |snapshot| snapshot.version + 1);
        let events = self.open(self.stream_events(&page, first)?).await?;
        let next_version = first + events.len() as u64;
        let is_full = page.is_full(PAGE_LIMIT);
        let loaded = LoadedStream { snapshot, log_id: page.head.log_id, next_version, events, is_full };
        Ok(loaded)
    }

    async fn find_stream(
        &self,
        fold: &SnapshotFold,
        stream: &StreamName,
        snapshot_version_max: Option<u64>,
        end: StreamEnd,
    ) -> Result<FoundStream, StoreError> {
        let (tenant, stream) = (Value::Uuid(self.id().0), Value::Text(stream.as_str()));
        let (name, fingerprint) = (Value::Text(fold.name), Value::Int8(fold.fingerprint.cast_signed()));
        let (events_max, bytes_max) = PAGE_LIMIT.parameters();
        let mut values = vec![tenant, Value::Int8(events_max), Value::Int8(bytes_max), stream];
        let mut matching = "tenant_id = $1 and stream = $4".to_owned();
        let newest_max = bigint(snapshot_version_max.unwrap_or(0));
        if snapshot_version_max.is_some() {
            values.extend([name, fingerprint, newest_max]);
            let end = end.condition(8).map_or_else(String::new, |(condition, _)| condition);
            let newest = newest_snapshot("version", [5, 4, 6, 7], &end);
            write!(matching, " and version > coalesce(({newest}), 0)").expect("writing to a string");
        }
        if let Some((condition, value)) = end.condition(values.len() + 1) {
            matching.push_str(&condition);
            values.push(value);
        }
        let events_sql = page_sql(COLUMNS, &matching, "version");
        let mut snapshot_values = vec![tenant, name, stream, fingerprint, newest_max];
        let end = end.condition(6).map_or_else(String::new, |(condition, value)| {
            snapshot_values.push(value);
            condition
        });
        let snapshot_sql =
            newest_snapshot("version, position, recorded_at, log_id, state, tag", [2, 3, 4, 5], &end);
        let head = [tenant];
        let group = [
            Read { sql: HEAD, values: &head },
            Read { sql: &events_sql, values: &values },
            Read { sql: &snapshot_sql, values: &snapshot_values },
        ];
        let rows = self.read(&group[..if snapshot_version_max.is_some() { 3 } else { 2 }]).await?;
        let mut rows = rows.into_iter();
        let (Some(head), Some(events)) = (rows.next(), rows.next()) else {
            return Err(StoreError::Corrupt("a group has fewer answers than statements".to_owned()));
        };
        let page = StreamRows { head: head_in(self.id(), &head)?, last: None, rows: events };
        Ok(FoundStream { page, snapshot: rows.next() })
    }

    /// The snapshot in this row. `None` if it was changed, or if personal data in it do not decrypt any more.
    async fn open_snapshot(
        &self,
        fold: &SnapshotFold,
        stream: &StreamName,
        row: RawRow<'_>,
    ) -> Result<Option<Snapshot>, StoreError> {
        let mut snapshot = Snapshot {
            version: field::<i64>(row, 0)? as u64,
            position: field::<i64>(row, 1)? as u64,
            recorded_at: field(row, 2)?,
            log_id: LogId(field(row, 3)?),
            state: Json::Null,
            subjects: Vec::new(),
        };
        let state: &[u8] = field(row, 4)?;
        let place = self.place(fold, stream, &snapshot);
        if !self.store().key().verify(LABEL, &[&place, state], field(row, 5)?) {
            return Ok(None);
        }
        let Ok(mut state) = serde_json::from_slice::<Json>(state) else { return Ok(None) };
        while state.get(SEALED).is_some() {
            let Some(keyring) = self.store().keyring() else { return Ok(None) };
            let id = snapshot_id(fold, stream, &snapshot);
            state = keyring.open_part(self.id(), id, state).await?;
            let Some(open) = state.get_mut(OPEN) else { return Ok(None) };
            let subject: Option<Uuid> =
                open.get("subject").and_then(Json::as_str).and_then(|text| text.parse().ok());
            snapshot.subjects.extend(subject);
            state = open.get_mut("value").map(Json::take).unwrap_or_default();
        }
        Ok(Some(Snapshot { state, ..snapshot }))
    }

    /// Keeps snapshots of a stream in the background. Without a free writer they are not kept.
    pub fn keep_snapshots(&self, fold: SnapshotFold, stream: &StreamName, snapshots: Vec<Snapshot>) {
        if snapshots.is_empty() {
            return;
        }
        let Ok(permit) = Arc::clone(&self.store().0.snapshot_writers).try_acquire_owned() else { return };
        let (tenant, stream) = (self.clone(), stream.clone());
        self.store().0.tasks.spawn(async move {
            let _permit = permit;
            for snapshot in snapshots {
                let outcome = match tenant.keep_snapshot(&fold, &stream, snapshot).await {
                    Ok(true) => "kept",
                    Ok(false) => "skipped",
                    Err(error) => {
                        tracing::debug!(stream = stream.as_str(), error = %Causes(&error), "a snapshot was not kept");
                        "failed"
                    }
                };
                metrics::counter!("annals_snapshots_total", "outcome" => outcome).increment(1);
            }
        });
    }

    /// Keeps a snapshot. Returns `false` for one that is too large, of an erased subject, or of a replaced log.
    ///
    /// # Errors
    /// [`StoreError`] when the database or the key store does not answer.
    pub async fn keep_snapshot(
        &self,
        fold: &SnapshotFold,
        stream: &StreamName,
        mut snapshot: Snapshot,
    ) -> Result<bool, StoreError> {
        let id = snapshot_id(fold, stream, &snapshot);
        let mut state = std::mem::take(&mut snapshot.state);
        for subject in &snapshot.subjects {
            let Some(keyring) = self.store().keyring() else { return Ok(false) };
            let open = json!({ OPEN: { "subject": subject, "value": state } });
            let sealed = keyring.seal(self.id(), stream, id, open.to_string().into()).await;
            state = match sealed {
                Ok(sealed) => serde_json::from_slice(&sealed.payload)
                    .map_err(|error| StoreError::corrupt("a sealed snapshot", error))?,
                Err(KeyringError::SubjectErased) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
        }
        let state = state.to_string().into_bytes();
        if state.len() > STATE_BYTES_MAX {
            return Ok(false);
        }
        let place = self.place(fold, stream, &snapshot);
        let tag = self.store().key().mac(LABEL, &[&place, &state]);
        let transaction = self.begin_worker_transaction().await?;
        let kept = transaction
            .execute(
                "insert into snapshots
                     (tenant_id, fold, stream, version, position, recorded_at, log_id, fingerprint, state, tag)
                 select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 from heads where tenant_id = $1 and log_id = $7
                 on conflict (tenant_id, fold, stream, version) do update
                 set position = excluded.position, recorded_at = excluded.recorded_at, log_id = excluded.log_id,
                     fingerprint = excluded.fingerprint, state = excluded.state, tag = excluded.tag",
                &[
                    &self.id().0,
                    &fold.name,
                    &stream.as_str(),
                    &(snapshot.version as i64),
                    &(snapshot.position as i64),
                    &snapshot.recorded_at,
                    &snapshot.log_id.0,
                    &fold.fingerprint.cast_signed(),
                    &state,
                    &tag.as_slice(),
                ],
            )
            .await?;
        transaction.commit().await?;
        Ok(kept > 0)
    }

    async fn drop_snapshots(&self, fold: &SnapshotFold, stream: &StreamName) -> Result<(), StoreError> {
        let transaction = self.begin_worker_transaction().await?;
        let sql = "delete from snapshots where tenant_id = $1 and fold = $2 and stream = $3";
        transaction.execute(sql, &[&self.id().0, &fold.name, &stream.as_str()]).await?;
        transaction.commit().await
    }

    /// What the tag of a row covers, beside the state.
    fn place(&self, fold: &SnapshotFold, stream: &StreamName, snapshot: &Snapshot) -> Vec<u8> {
        let Snapshot { version, position, recorded_at, log_id, .. } = snapshot;
        let recorded_at = recorded_at.timestamp_micros();
        let place = (self.id(), fold.name, fold.fingerprint, stream, version, position, recorded_at, log_id);
        serde_json::to_vec(&place).expect("ids and numbers serialise")
    }
}

/// The id that a sealed state is bound to, in place of an event's.
fn snapshot_id(fold: &SnapshotFold, stream: &StreamName, snapshot: &Snapshot) -> Uuid {
    let label = format!("snapshot/{}/{}/{}", fold.name, stream.as_str(), snapshot.version);
    ids::derived_id(snapshot.log_id.0, &label)
}

/// Selects from the newest snapshot. The numbers are those of the parameters fold, stream, fingerprint and maximum version.
fn newest_snapshot(columns: &str, [fold, stream, fingerprint, max]: [usize; 4], end: &str) -> String {
    format!(
        "select {columns} from snapshots
         where tenant_id = $1 and fold = ${fold} and stream = ${stream} and fingerprint = ${fingerprint}
           and version <= ${max} and log_id = (select log_id from heads where tenant_id = $1){end}
         order by version desc limit 1"
    )
}

impl LoadedStream {
    /// The events after the snapshot, with personal data decrypted. The condition on the end of the load is the
    /// caller's: the pages after the first one are read to the head.
    pub fn events(
        self,
        tenant: &TenantStore,
        stream: &StreamName,
    ) -> impl Stream<Item = Result<RecordedEvent, StoreError>> + Send + 'static {
        let rest = tenant.read_stream_of(Some(self.log_id), stream, self.next_version);
        let (events, is_full) = (self.events, self.is_full);
        try_stream! {
            for event in events {
                yield event;
            }
            if is_full {
                for await event in rest {
                    yield event?;
                }
            }
        }
    }
}
