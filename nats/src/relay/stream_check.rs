//! Whether the stream is still what was filled: the cheap look that finds out about every loss.
//!
//! Three things tell: the stream's creation time (it was made anew), the number of messages that have left it (something
//! was removed), and the message at the farthest place that was acknowledged (it went back to an earlier state, as after
//! a backup was put in its place). Which tenants are concerned is for `refill` to find out.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use schemas::engine::{LogId, TenantId};
use store::{AckedMessage, DatabaseInstance, RelayProgress, Store};

use super::stored_message::message_at;
use super::{divergence_check, stream_reader};
use crate::message::MessageKey;
use crate::{Nats, NatsError};

/// Looks before it is believed that the stream went back: a new leader of a cluster may need a moment.
const ROLLBACK_CHECKS: u32 = 3;
const ROLLBACK_CHECK_INTERVAL: Duration = Duration::from_millis(300);

/// What the look came to.
#[derive(Debug)]
pub(super) struct StreamCheckResult {
    /// Messages that have left the stream.
    pub(super) removed: u64,
    /// The life of the database whose logs the stream was compared with.
    pub(super) database_instance: DatabaseInstance,
    /// Tenants whose messages may be among them, those that lack most first.
    pub(super) suspected: Vec<TenantId>,
    /// Every generation was raised: what is known of progress is void.
    pub(super) epochs_bumped: bool,
}

/// A message that was acknowledged, whether or not that is stored.
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

/// Looks at the stream, creating it where it is missing. `remembered` is the farthest message acknowledged to this
/// process, `acked` how far it has published each log, `examined` the life of the database that was compared with the
/// stream. Another life is compared first: it may be of an earlier state, whose positions must not be published twice.
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
            store.reset_after_stream_regression(stored).await?;
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
    /// What was acknowledged does not stand where it stood. `stored` is the farthest mark that was read.
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
    // Read before the stream is, so that nothing acknowledged here can be younger than what is found there.
    let progress = store.relay_progress().await?;
    let stream = nats.event_stream().await?;
    let removed = stream_reader::removed_count(&stream);
    let good = |suspected, epochs_bumped| {
        Ok(StreamInspection::Consistent(CheckFindings { removed, suspected, epochs_bumped }))
    };
    let created = chrono::SubsecRound::trunc_subsecs(stream.created, 6);
    if !store.check_relay_stream(created, removed).await? {
        tracing::warn!("EVENTS is another stream than before: every log is published again");
        return good(Vec::new(), true);
    }
    if has_retention_limits(&stream.config) {
        // Events leave it because somebody wants that.
        return good(Vec::new(), false);
    }
    let suspected: Vec<&RelayProgress> =
        progress.iter().filter(|row| row.acked > 0 && row.removed != Some(removed)).collect();
    let stored = progress.iter().max_by_key(|row| row.acked_message.sequence);
    let stored = stored.map(|row| LastAckedMessage { log: row.log_id, acked_message: row.acked_message });
    let farthest =
        [stored, remembered].into_iter().flatten().max_by_key(|last_acked| last_acked.acked_message.sequence);
    if let Some(last_acked) = farthest.filter(|last_acked| last_acked.acked_message.sequence > 0) {
        let rolled_back = match last_acked.presence(nats, key).await? {
            MessagePresence::Present => false,
            // One of those that were removed, which are looked for anyway.
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

async fn sorted_by_missing(nats: &Nats, rows: Vec<&RelayProgress>) -> Vec<TenantId> {
    let mut rows = rows;
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

/// Whether events leave the stream because somebody wants that.
pub(crate) fn has_retention_limits(config: &Config) -> bool {
    config.max_age > Duration::ZERO
        || config.max_bytes > 0
        || config.max_messages > 0
        || config.max_messages_per_subject > 0
}
