//! The cheap check that detects every loss of messages in the stream.
//!
//! It compares three values:
//! - the creation time of the stream: it changes if the stream was created again;
//! - the number of messages that have left the stream: it grows if messages were removed;
//! - the last acknowledged message: it is missing or different if the stream was restored from a backup.
//!
//! `republish` then finds out which events of a suspected tenant are missing.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use schemas::engine::{LogId, TenantId};
use store::{DatabaseInstance, Store};

use super::progress::{self, AckedMessage, RelayProgress};
use super::stored_message::message_at;
use super::{divergence_check, stream_reader};
use crate::message::MessageKey;
use crate::{Nats, NatsError};

/// Checks before a rollback of the stream is assumed. A new leader of a cluster may need a moment.
const ROLLBACK_CHECKS: u32 = 3;
const ROLLBACK_CHECK_INTERVAL: Duration = Duration::from_millis(300);

/// Result of a check.
#[derive(Debug)]
pub(super) struct StreamCheckResult {
    /// Messages that have left the stream.
    pub(super) removed: u64,
    /// The database instance whose logs were compared with the stream.
    pub(super) database_instance: DatabaseInstance,
    /// Tenants that may have lost messages; those that lack most come first.
    pub(super) suspected: Vec<TenantId>,
    /// All stream epochs were raised, so progress in memory is invalid.
    pub(super) epochs_bumped: bool,
}

/// An acknowledged message; the acknowledgement may not be stored yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastAckedMessage {
    pub(super) log: LogId,
    pub(super) acked_message: AckedMessage,
}

impl LastAckedMessage {
    pub(super) async fn is_present(&self, nats: &Nats, key: &MessageKey) -> Result<bool, NatsError> {
        Ok(self.presence(nats, key).await? == MessagePresence::Present)
    }

    async fn presence(&self, nats: &Nats, key: &MessageKey) -> Result<MessagePresence, NatsError> {
        let Some(found) = message_at(nats, self.acked_message.sequence).await? else {
            return Ok(MessagePresence::Absent);
        };
        let published = found.published(key);
        let is_it =
            published.is_some_and(|it| (it.log, it.position) == (self.log, self.acked_message.position));
        Ok(if is_it { MessagePresence::Present } else { MessagePresence::Different })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MessagePresence {
    Present,
    Absent,
    Different,
}

/// Checks the stream, and creates it if it is missing.
/// `remembered` is the last message that was acknowledged to this process, `acked` the acknowledged position of each
/// log.
/// `examined` is the database instance that was last compared with the stream.
/// A different instance is compared first: it may be an earlier state, and its positions must not be published twice.
pub(super) async fn check(
    store: &Store,
    nats: &Nats,
    key: &MessageKey,
    remembered: Option<LastAckedMessage>,
    checked_instance: Option<DatabaseInstance>,
    acked: Vec<(TenantId, LogId, u64)>,
) -> Result<StreamCheckResult, NatsError> {
    let database_instance = store.database_instance().await?;
    if checked_instance.as_ref() != Some(&database_instance) {
        divergence_check::check_divergence(store, nats).await?;
        store.replace_logs_ending_before(acked.into_iter()).await?;
    }
    for _ in 1..ROLLBACK_CHECKS {
        match inspect(store, nats, key, remembered).await? {
            StreamInspection::Consistent(found) => return Ok(found.verdict(database_instance)),
            StreamInspection::RolledBack { .. } => tokio::time::sleep(ROLLBACK_CHECK_INTERVAL).await,
        }
    }
    match inspect(store, nats, key, remembered).await? {
        StreamInspection::Consistent(found) => Ok(found.verdict(database_instance)),
        StreamInspection::RolledBack { removed, stored } => {
            tracing::warn!("EVENTS has gone back to an earlier state: what it lacks is published again");
            progress::reset_after_stream_regression(store, stored).await?;
            let found = CheckFindings { removed, suspected: Vec::new(), epochs_bumped: true };
            Ok(found.verdict(database_instance))
        }
    }
}

struct CheckFindings {
    removed: u64,
    suspected: Vec<TenantId>,
    epochs_bumped: bool,
}

impl CheckFindings {
    fn verdict(self, database_instance: DatabaseInstance) -> StreamCheckResult {
        let Self { removed, suspected, epochs_bumped } = self;
        StreamCheckResult { removed, database_instance, suspected, epochs_bumped }
    }
}

enum StreamInspection {
    Consistent(CheckFindings),
    /// The last acknowledged message is missing. `stored` is the highest stream position in the database.
    RolledBack {
        removed: u64,
        stored: u64,
    },
}

async fn inspect(
    store: &Store,
    nats: &Nats,
    key: &MessageKey,
    remembered: Option<LastAckedMessage>,
) -> Result<StreamInspection, NatsError> {
    // The progress is read before the stream, so that no acknowledged message is newer than the state of the stream.
    let stored = progress::farthest(store).await?;
    let stream = nats.event_stream().await?;
    let removed = stream_reader::removed_count(&stream);
    let good = |suspected, epochs_bumped| {
        Ok(StreamInspection::Consistent(CheckFindings { removed, suspected, epochs_bumped }))
    };
    let created = chrono::SubsecRound::trunc_subsecs(stream.created, 6);
    if !progress::check_stream(store, created, removed).await? {
        tracing::warn!("EVENTS is another stream than before: every log is published again");
        return good(Vec::new(), true);
    }
    if has_retention_limits(&stream.config) {
        // The stream has retention limits, so messages leave it as configured.
        return good(Vec::new(), false);
    }
    let suspected = progress::suspected(store, removed).await?;
    let stored = stored.map(|row| LastAckedMessage { log: row.log_id, acked_message: row.acked_message });
    let farthest =
        [stored, remembered].into_iter().flatten().max_by_key(|last_acked| last_acked.acked_message.sequence);
    if let Some(last_acked) = farthest.filter(|last_acked| last_acked.acked_message.sequence > 0) {
        let rolled_back = match last_acked.presence(nats, key).await? {
            MessagePresence::Present => false,
            // It is one of the removed messages; the suspected tenants are compared anyway.
            MessagePresence::Absent if last_acked.acked_message.sequence <= stream.state.last_sequence => {
                suspected.is_empty()
            }
            MessagePresence::Absent | MessagePresence::Different => true,
        };
        if rolled_back {
            return Ok(StreamInspection::RolledBack {
                removed,
                stored: stored.map_or(0, |last_acked| last_acked.acked_message.sequence),
            });
        }
    }
    good(sorted_by_missing(nats, suspected).await, false)
}

async fn sorted_by_missing(nats: &Nats, mut rows: Vec<RelayProgress>) -> Vec<TenantId> {
    if rows.len() > 1
        && let Ok(counts) = stream_reader::counts(nats).await
    {
        let missing = |row: &RelayProgress| {
            row.acked.saturating_sub(counts.get(row.slug.as_str()).copied().unwrap_or(0))
        };
        rows.sort_by_key(|row| std::cmp::Reverse(missing(row)));
    }
    rows.into_iter().map(|row| row.tenant).collect()
}

/// Whether the stream is configured to drop messages.
pub(crate) fn has_retention_limits(config: &Config) -> bool {
    config.max_age > Duration::ZERO
        || config.max_bytes > 0
        || config.max_messages > 0
        || config.max_messages_per_subject > 0
}
