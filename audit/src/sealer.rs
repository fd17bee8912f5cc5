//! The role `sealer`: every few seconds it extends the Merkle logs that have grown and signs a checkpoint of each.
//!
//! Before it continues a log it rebuilds the tree's right edge from the database and compares it with everything that
//! was ever signed and is still known: the signer's own memory, the checkpoint in the database, the last one on
//! JetStream. A log that does not extend all of them is refused, loudly, until an operator replaces it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use nats::Nats;
use proofs::{Checkpoint, Frontier, Hash, Node, Span};
use schemas::engine::{LogId, TenantId, TenantSlug};
use store::{Seal, Share, SharedWork, Store, UnsealedLog};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{AuditError, Signer};

/// Leaves read at once.
const CHUNK: u64 = 16_384;
/// Leaves of one log that are sealed before others have their turn.
const TURN: u64 = 50 * CHUNK;
/// Logs that are sealed at once.
const AT_ONCE: usize = 3;
/// The rest of a log that was refused: looking at it again may mean reading all of it.
const REFUSED: Duration = Duration::from_mins(1);
/// Logs whose right edge is kept in memory; the others are rebuilt when they grow.
const OPEN_LOGS: usize = 100_000;

/// A log whose right edge is known.
struct OpenLog {
    log_id: LogId,
    frontier: Frontier,
    /// The last leaf: random enough to tell that the database went back and grew again.
    last: Hash,
}

struct Sealer {
    store: Store,
    nats: Option<Nats>,
    signer: Arc<Signer>,
    share: Share,
    open: HashMap<TenantId, OpenLog>,
    /// Refused logs, and when they were looked at.
    refused: HashMap<(TenantId, LogId), Instant>,
}

/// Seals until cancelled. Outages are waited out.
pub async fn run(
    store: Store,
    nats: Option<Nats>,
    signer: Arc<Signer>,
    every: Duration,
    cancel: CancellationToken,
) {
    let share = store.share(SharedWork::Sealer);
    let mut sealer = Sealer { store, nats, signer, share, open: HashMap::new(), refused: HashMap::new() };
    let mut rounds = tokio::time::interval(every);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = rounds.tick() => {}
        }
        tokio::select! {
            // A log is sealed by one statement, so that leaving in the middle is safe.
            () = cancel.cancelled() => return,
            done = sealer.round() => {
                if let Err(error) = done {
                    tracing::warn!(%error, "no log could be sealed");
                }
            }
        }
    }
}

impl Sealer {
    async fn round(&mut self) -> Result<(), AuditError> {
        let logs = self.store.unsealed_logs().await?;
        let rests = |log: &UnsealedLog| {
            let refused = self.refused.get(&(log.tenant, log.log_id));
            refused.is_some_and(|looked| looked.elapsed() < REFUSED)
        };
        let own = logs.into_iter().filter(|log| self.share.owns(log.tenant) && !rests(log));
        let jobs: Vec<_> = own.map(|log| (self.open.remove(&log.tenant), log)).collect();
        let this = &*self;
        let mut done = futures::stream::iter(jobs)
            .map(async |(open, log)| {
                let sealed = this.seal(&log, open).await;
                (log, sealed)
            })
            .buffer_unordered(AT_ONCE);
        let (mut open, mut refused) = (Vec::new(), Vec::new());
        while let Some((log, sealed)) = done.next().await {
            match sealed {
                Ok(sealed) => open.push((log, sealed)),
                Err(AuditError::Refused(why)) => refused.push((log, why)),
                Err(error) => tracing::warn!(tenant = %log.slug, %error, "the log could not be sealed"),
            }
        }
        drop(done);
        for (log, why) in refused {
            self.refuse(&log, &why).await?;
        }
        for (log, sealed) in open {
            // Those too of logs that this one has replaced.
            self.refused.retain(|(tenant, _), _| *tenant != log.tenant);
            if self.open.len() < OPEN_LOGS {
                self.open.insert(log.tenant, sealed);
            }
        }
        metrics::gauge!("sealer_refused_logs").set(self.refused.len() as f64);
        Ok(())
    }

    /// Says it once for each log, and keeps it beside the last good checkpoint.
    async fn refuse(&mut self, log: &UnsealedLog, why: &str) -> Result<(), AuditError> {
        if self.refused.insert((log.tenant, log.log_id), Instant::now()).is_none() {
            tracing::error!(tenant = %log.slug, log = %log.log_id, why, "the signer refuses to sign this log");
        }
        Ok(self.store.refuse_seal(log, why).await?)
    }

    async fn seal(&self, log: &UnsealedLog, open: Option<OpenLog>) -> Result<OpenLog, AuditError> {
        let (mut log, mut witnesses) = (log.clone(), Vec::new());
        let mut open = match open.filter(|open| open.log_id == log.log_id) {
            Some(open) => open,
            None => self.open(&mut log, &mut witnesses).await?,
        };
        if open.frontier.size() > log.head {
            return Err(gone_back(&log, open.frontier.size()));
        }
        // As far as the farthest witness in any case: nothing smaller is signed, and nothing is passed uncompared.
        let farthest = witnesses.iter().map(|seen| seen.size).max().unwrap_or(0);
        let target = log.head.min(farthest.max(open.frontier.size() + TURN));
        let mut subtrees = Vec::new();
        while open.frontier.size() < target {
            self.extend(&log, &mut open, target, &witnesses, &mut subtrees).await?;
        }
        let checkpoint =
            Checkpoint { origin: self.signer.origin(log.log_id), size: target, root: open.frontier.root() };
        let (signer, log_id) = (Arc::clone(&self.signer), log.log_id);
        let (signed, subtrees) = tokio::task::spawn_blocking(move || {
            let signed = signer.sign(log_id, &checkpoint, &subtrees);
            (signed, subtrees)
        })
        .await
        .map_err(|error| AuditError::Damaged(error.to_string()))?;
        let seal = Seal {
            tenant: log.tenant,
            log_id,
            size: target,
            note: signed?,
            verifier_key: self.signer.verifier_key(log_id)?.to_string(),
            subtrees,
        };
        self.store.keep_seal(&seal).await?;
        metrics::counter!("sealer_checkpoints_total").increment(1);
        self.publish(&log.slug, &seal.note).await;
        Ok(open)
    }

    /// Adds the next leaves.
    async fn extend(
        &self,
        log: &UnsealedLog,
        open: &mut OpenLog,
        target: u64,
        witnesses: &[Checkpoint],
        subtrees: &mut Vec<(Node, Hash)>,
    ) -> Result<(), AuditError> {
        let size = open.frontier.size();
        let to = target.min(size + CHUNK);
        // One leaf more than needed: the last one known has to be there still.
        let mut leaves = self.store.leaves(log.tenant, size.saturating_sub(1), to).await?.into_iter();
        if size > 0 && leaves.next() != Some(open.last) {
            return Err(AuditError::Refused(format!(
                "the leaf at position {size} is not the one that was sealed"
            )));
        }
        if leaves.len() as u64 != to - size {
            return Err(AuditError::Refused(format!("events are missing between {size} and {to}")));
        }
        for leaf in leaves {
            open.frontier.push(leaf, |node, hash| {
                if store::merkle::is_stored(node) {
                    subtrees.push((node, hash));
                }
            });
            open.last = leaf;
            compare(&open.frontier, witnesses)?;
        }
        metrics::counter!("sealer_leaves_total").increment(to - size);
        Ok(())
    }

    /// Rebuilds the right edge as the database has it, and gathers what it has to agree with.
    async fn open(
        &self,
        log: &mut UnsealedLog,
        witnesses: &mut Vec<Checkpoint>,
    ) -> Result<OpenLog, AuditError> {
        let kept = self.store.sealed_log(log.tenant).await?;
        let kept = kept.filter(|kept| kept.log_id == log.log_id && kept.size > 0);
        let kept = kept.map(|kept| self.signer.recognise(log.log_id, &kept.note)).transpose();
        let kept = kept.map_err(|error| match error {
            AuditError::Note(error) => {
                AuditError::Refused(format!("the checkpoint in the database: {error}"))
            }
            other => other,
        })?;
        let size = kept.as_ref().map_or(0, |kept| kept.size);
        witnesses.extend(kept);
        let (signer, log_id) = (Arc::clone(&self.signer), log.log_id);
        let remembered = tokio::task::spawn_blocking(move || signer.remembered(log_id))
            .await
            .map_err(|error| AuditError::Damaged(error.to_string()))??;
        witnesses.extend(remembered);
        witnesses.extend(self.published(log).await);
        // Read behind the witnesses: another sealer may have signed what was appended since this round began.
        let end = self.store.end_of_log(log.tenant, log.log_id).await?;
        log.head = end.ok_or(AuditError::Bounds("the log was replaced meanwhile"))?;
        if let Some(larger) = witnesses.iter().map(|seen| seen.size).max().filter(|size| *size > log.head) {
            return Err(gone_back(log, larger));
        }
        let nodes = Span { start: 0, end: size }.nodes();
        let hashes = self.store.subtrees(log.tenant, &nodes).await?;
        let peaks = nodes.iter().map(|node| hashes.get(node).copied()).collect::<Option<Vec<_>>>();
        let frontier = peaks.and_then(|peaks| Frontier::new(size, peaks));
        let frontier = frontier
            .ok_or_else(|| AuditError::Refused(format!("subtrees below position {size} are missing")))?;
        compare(&frontier, witnesses)?;
        let last = self.store.leaves(log.tenant, size.saturating_sub(1), size).await?;
        Ok(OpenLog { log_id: log.log_id, frontier, last: last.first().copied().unwrap_or_default() })
    }

    /// The last checkpoint of this log that followers were given. Without NATS there is one witness less.
    async fn published(&self, log: &UnsealedLog) -> Option<Checkpoint> {
        let nats = self.nats.as_ref()?;
        match nats::checkpoints::last(nats, &log.slug).await {
            Ok(note) => self.signer.recognise(log.log_id, &note?).ok(),
            Err(error) => {
                tracing::debug!(%error, "the published checkpoint could not be read");
                None
            }
        }
    }

    /// Followers get the next one where this one does not arrive.
    async fn publish(&self, slug: &TenantSlug, note: &str) {
        let Some(nats) = &self.nats else { return };
        if let Err(error) = nats::checkpoints::publish(nats, slug, note).await {
            tracing::debug!(%error, "a checkpoint could not be published");
        }
    }
}

fn gone_back(log: &UnsealedLog, signed: u64) -> AuditError {
    AuditError::Refused(format!(
        "{signed} events were signed, the log has {}: the database went back",
        log.head
    ))
}

fn compare(frontier: &Frontier, witnesses: &[Checkpoint]) -> Result<(), AuditError> {
    let mut same = witnesses.iter().filter(|seen| seen.size == frontier.size());
    if same.any(|seen| seen.root != frontier.root()) {
        let size = frontier.size();
        return Err(AuditError::Refused(format!("the first {size} events are not those that were signed")));
    }
    Ok(())
}
