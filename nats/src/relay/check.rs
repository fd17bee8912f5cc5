//! Whether the stream is still what was filled: the cheap look that finds out about every loss.
//!
//! Three things tell: the stream's creation time (it was made anew), the number of messages that have left it (something
//! was removed), and the message at the farthest place that was acknowledged (it went back to an earlier state, as after
//! a backup was put in its place). Which tenants are concerned is for `refill` to find out.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use schemas::engine::{LogId, TenantId};
use store::{Incarnation, RelayMark, RelayProgress, Store};

use super::stored::message_at;
use super::{copy, evidence};
use crate::message::MessageKey;
use crate::{Nats, NatsError};

/// Looks before it is believed that the stream went back: a new leader of a cluster may need a moment.
const LOOKS: u32 = 3;
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// What the look came to.
#[derive(Debug)]
pub(super) struct Verdict {
    /// Messages that have left the stream.
    pub(super) removed: u64,
    /// The life of the database whose logs the stream was compared with.
    pub(super) incarnation: Incarnation,
    /// Tenants whose messages may be among them, those that lack most first.
    pub(super) doubtful: Vec<TenantId>,
    /// Every generation was raised: what is known of progress is void.
    pub(super) started_over: bool,
}

/// A message that was acknowledged, whether or not that is stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Witness {
    pub(super) log: LogId,
    pub(super) mark: RelayMark,
}

impl Witness {
    pub(super) async fn is_there(&self, nats: &Nats, key: &MessageKey) -> Result<bool, NatsError> {
        Ok(self.stands(nats, key).await? == Standing::There)
    }

    async fn stands(&self, nats: &Nats, key: &MessageKey) -> Result<Standing, NatsError> {
        let Some(found) = message_at(nats, self.mark.sequence).await? else { return Ok(Standing::Absent) };
        let published = found.published(key);
        let is_it = published.is_some_and(|it| (it.log, it.position) == (self.log, self.mark.position));
        Ok(if is_it { Standing::There } else { Standing::Another })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    There,
    Absent,
    Another,
}

/// Looks at the stream, creating it where it is missing. `remembered` is the farthest message acknowledged to this
/// process, `acked` how far it has published each log, `examined` the life of the database that was compared with the
/// stream. Another life is compared first: it may be of an earlier state, whose positions must not be published twice.
pub(super) async fn check(
    store: &Store,
    nats: &Nats,
    key: &MessageKey,
    remembered: Option<Witness>,
    examined: Option<Incarnation>,
    acked: Vec<(TenantId, LogId, u64)>,
) -> Result<Verdict, NatsError> {
    let incarnation = store.incarnation().await?;
    if examined.as_ref() != Some(&incarnation) {
        evidence::examine(store, nats).await?;
        store.replace_logs_that_end_before(acked.into_iter()).await?;
    }
    for _ in 1..LOOKS {
        match look(store, nats, key, remembered).await? {
            Look::Good(found) => return Ok(found.verdict(incarnation)),
            Look::GoneBack { .. } => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
    match look(store, nats, key, remembered).await? {
        Look::Good(found) => Ok(found.verdict(incarnation)),
        Look::GoneBack { removed, stored } => {
            tracing::warn!("EVENTS has gone back to an earlier state: what it lacks is published again");
            store.relay_stream_went_back(stored).await?;
            let found = Found { removed, doubtful: Vec::new(), started_over: true };
            Ok(found.verdict(incarnation))
        }
    }
}

struct Found {
    removed: u64,
    doubtful: Vec<TenantId>,
    started_over: bool,
}

impl Found {
    fn verdict(self, incarnation: Incarnation) -> Verdict {
        let Self { removed, doubtful, started_over } = self;
        Verdict { removed, incarnation, doubtful, started_over }
    }
}

enum Look {
    Good(Found),
    /// What was acknowledged does not stand where it stood. `stored` is the farthest mark that was read.
    GoneBack {
        removed: u64,
        stored: u64,
    },
}

async fn look(
    store: &Store,
    nats: &Nats,
    key: &MessageKey,
    remembered: Option<Witness>,
) -> Result<Look, NatsError> {
    // Read before the stream is, so that nothing acknowledged here can be younger than what is found there.
    let progress = store.relay_progress().await?;
    let stream = nats.event_stream().await?;
    let removed = copy::removed(&stream);
    let good = |doubtful, started_over| Ok(Look::Good(Found { removed, doubtful, started_over }));
    let created = chrono::SubsecRound::trunc_subsecs(stream.created, 6);
    if !store.relay_stream_is(created, removed).await? {
        tracing::warn!("EVENTS is another stream than before: every log is published again");
        return good(Vec::new(), true);
    }
    if has_limits(&stream.config) {
        // Events leave it because somebody wants that.
        return good(Vec::new(), false);
    }
    let doubtful: Vec<&RelayProgress> =
        progress.iter().filter(|row| row.acked > 0 && row.removed != Some(removed)).collect();
    let stored = progress.iter().max_by_key(|row| row.mark.sequence);
    let stored = stored.map(|row| Witness { log: row.log_id, mark: row.mark });
    let farthest = [stored, remembered].into_iter().flatten().max_by_key(|witness| witness.mark.sequence);
    if let Some(witness) = farthest.filter(|witness| witness.mark.sequence > 0) {
        let gone_back = match witness.stands(nats, key).await? {
            Standing::There => false,
            // One of those that were removed, which are looked for anyway.
            Standing::Absent if witness.mark.sequence <= stream.state.last_sequence => doubtful.is_empty(),
            Standing::Absent | Standing::Another => true,
        };
        if gone_back {
            return Ok(Look::GoneBack { removed, stored: stored.map_or(0, |witness| witness.mark.sequence) });
        }
    }
    good(lacking_most_first(nats, doubtful).await, false)
}

async fn lacking_most_first(nats: &Nats, rows: Vec<&RelayProgress>) -> Vec<TenantId> {
    let mut rows = rows;
    if rows.len() > 1
        && let Ok(counts) = copy::counts(nats).await
    {
        let lacks = |row: &RelayProgress| {
            row.acked.saturating_sub(counts.get(row.slug.as_str()).copied().unwrap_or(0))
        };
        rows.sort_by_key(|row| std::cmp::Reverse(lacks(row)));
    }
    rows.into_iter().map(|row| row.tenant).collect()
}

/// Whether events leave the stream because somebody wants that.
pub(crate) fn has_limits(config: &Config) -> bool {
    config.max_age > Duration::ZERO
        || config.max_bytes > 0
        || config.max_messages > 0
        || config.max_messages_per_subject > 0
}
