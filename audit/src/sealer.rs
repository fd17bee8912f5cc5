//! The role `sealer`: every few seconds it extends the Merkle trees of logs that have grown, and signs a checkpoint of
//! each.
//!
//! Before it continues a log, it rebuilds the frontier of the tree from the database. It compares it with all known
//! checkpoints: the signer's own record, the checkpoint in the database, the last one on JetStream.
//! A log that does not extend all of them is not signed any more.
//! If the database was restored to an earlier state, the log is replaced (`docs/adr/0023`).
//! Otherwise it is refused with an error until an operator replaces it.

mod known_checkpoint;
mod rows;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use nats::Nats;
use proofs::{Checkpoint, Frontier, Hash, Node, Span};
use schemas::engine::{Actor, LogId, TenantId, TenantSlug};
use store::{Causes, DatabaseInstance, Replacement, Store, TenantAssignment, Workload};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::known_checkpoint::{KnownCheckpoint, compare, find_rollback};
use self::rows::{Seal, UnsealedLog};
use crate::merkle::is_stored;
use crate::signer::TILE_HEIGHT;
use crate::{AuditError, Signer};

/// Maximum leaves of one read.
const CHUNK_LEAVES: u64 = 16_384;
/// Maximum leaves of one log that are sealed in a round, so that the other logs are sealed too.
const LEAVES_PER_ROUND_MAX: u64 = 50 * CHUNK_LEAVES;
/// Maximum logs that are sealed at once.
const CONCURRENT_LOGS_MAX: usize = 3;
/// The pause before a refused log is checked again. A check may read the whole log.
const REJECTED_LOG_RETRY_INTERVAL: Duration = Duration::from_mins(1);
/// Maximum logs whose frontier is cached; that of another log is rebuilt when it grows.
const OPEN_LOGS_MAX: usize = 100_000;

/// A log with a known frontier.
struct OpenLog {
    log_id: LogId,
    frontier: Frontier,
    /// The last leaf. Its randomness shows a database that was restored and has grown again.
    last: Hash,
}

impl OpenLog {
    fn empty(log_id: LogId) -> Self {
        Self { log_id, frontier: Frontier::default(), last: Hash::default() }
    }
}

struct Sealer {
    store: Store,
    nats: Option<Nats>,
    signer: Arc<Signer>,
    assignment: TenantAssignment,
    open: HashMap<TenantId, OpenLog>,
    /// Refused logs, with the time of the last check.
    rejected: HashMap<(TenantId, LogId), Instant>,
    /// The database instance in which every log was checked.
    checked_instance: Option<DatabaseInstance>,
}

/// Seals until cancelled. Outages are retried.
pub async fn run(
    store: Store,
    nats: Option<Nats>,
    signer: Arc<Signer>,
    every: Duration,
    cancel: CancellationToken,
) {
    let assignment = store.tenant_assignment(Workload::Sealer);
    let mut sealer = Sealer {
        store,
        nats,
        signer,
        assignment,
        open: HashMap::new(),
        rejected: HashMap::new(),
        checked_instance: None,
    };
    let mut rounds = tokio::time::interval(every);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = rounds.tick() => {}
        }
        tokio::select! {
            // A log is sealed by one statement, so an interruption is safe.
            () = cancel.cancelled() => return,
            done = sealer.round() => {
                if let Err(error) = done {
                    tracing::warn!(error = %Causes(&error), "no log could be sealed");
                }
            }
        }
    }
}

impl Sealer {
    async fn round(&mut self) -> Result<(), AuditError> {
        let database_instance = self.store.database_instance().await?;
        let logs = rows::unsealed_logs(&self.store).await?;
        let mut short = Vec::new();
        if self.checked_instance.as_ref() != Some(&database_instance) {
            // The database may have been restored to a state in which all events were sealed. Such a log has not grown,
            // so it is looked for here.
            short = self.shortened_logs().await?;
            short.retain(|log| !logs.contains(log));
        }
        let mut settled = true;
        let rests = |log: &UnsealedLog| {
            let rejected = self.rejected.get(&(log.tenant, log.log_id));
            rejected.is_some_and(|checked_at| checked_at.elapsed() < REJECTED_LOG_RETRY_INTERVAL)
        };
        let own = logs.into_iter().filter(|log| self.assignment.owns(log.tenant));
        let due = own.chain(short).filter(|log| !rests(log));
        let jobs: Vec<_> = due.map(|log| (self.open.remove(&log.tenant), log)).collect();
        let this = &*self;
        let mut done = futures::stream::iter(jobs)
            .map(async |(open, log)| {
                let sealed = this.seal(&log, open).await;
                (log, sealed)
            })
            .buffer_unordered(CONCURRENT_LOGS_MAX);
        let (mut open, mut rejected, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        while let Some((log, sealed)) = done.next().await {
            match sealed {
                Ok(sealed) => open.push((log, sealed)),
                Err(AuditError::Rejected(why)) => rejected.push((log, why)),
                Err(AuditError::RolledBack { signed, note, .. }) => lost.push((log, signed, note)),
                Err(error) => {
                    settled = false;
                    tracing::warn!(tenant = %log.slug, error = %Causes(&error), "the log could not be sealed");
                }
            }
        }
        drop(done);
        for (log, signed, note) in lost {
            if let Err(error) = self.replace(&log, signed, note).await {
                settled = false;
                tracing::warn!(tenant = %log.slug, error = %Causes(&error), "the log went back and could not be replaced yet");
            }
        }
        for (log, why) in rejected {
            self.reject(&log, &why).await?;
        }
        for (log, sealed) in open {
            // Logs that this one has replaced are removed too.
            self.rejected.retain(|(tenant, _), _| *tenant != log.tenant);
            if self.open.len() < OPEN_LOGS_MAX {
                self.open.insert(log.tenant, sealed);
            }
        }
        if settled {
            self.checked_instance = Some(database_instance);
        }
        metrics::gauge!("annals_sealer_rejected_logs").set(self.rejected.len() as f64);
        Ok(())
    }

    /// Logs that have fewer events than the signer's folder says. It is a cheap first check.
    async fn shortened_logs(&self) -> Result<Vec<UnsealedLog>, AuditError> {
        let mut logs = rows::logs_to_check(&self.store).await?;
        let signer = Arc::clone(&self.signer);
        run_blocking(move || {
            logs.retain(|log| match signer.last_signed(log.log_id) {
                Ok(None) => false,
                Ok(Some(note)) => Checkpoint::parse(&note).map_or(true, |signed| signed.size > log.head),
                // The error is reported when the log is sealed.
                Err(_) => true,
            });
            Ok(logs)
        })
        .await
    }

    /// Logs a refusal once for each log, and stores it with the last good checkpoint.
    async fn reject(&mut self, log: &UnsealedLog, why: &str) -> Result<(), AuditError> {
        if self.rejected.insert((log.tenant, log.log_id), Instant::now()).is_none() {
            tracing::error!(tenant = %log.slug, log = %log.log_id, why, "the signer refuses to sign this log");
        }
        Ok(rows::record_seal_refusal(&self.store, log, why).await?)
    }

    /// Continues a log that has fewer events than were signed, under another log id.
    async fn replace(&self, log: &UnsealedLog, signed: u64, note: String) -> Result<(), AuditError> {
        // The divergence check comes first: JetStream may hold events after the checkpoint.
        self.store.wait_until_verified().await?;
        let lost = Replacement {
            published_to: Some(signed),
            ends_before: Some(signed),
            checkpoints: vec![note],
            ..Replacement::of(log.tenant, log.log_id)
        };
        let reason = "the database has lost events that the signer has signed";
        let replaced = self.store.replace_logs(&[lost], reason, &Actor::system("sealer")).await?;
        for done in replaced {
            tracing::error!(
                tenant = %log.slug, log = %log.log_id, signed, kept = done.last_position,
                "events that were signed are gone: if nobody restored the database, somebody has taken them out"
            );
        }
        Ok(())
    }

    async fn seal(&self, log: &UnsealedLog, open: Option<OpenLog>) -> Result<OpenLog, AuditError> {
        let (mut log, mut known_checkpoints) = (log.clone(), Vec::new());
        let mut open = match open.filter(|open| open.log_id == log.log_id) {
            Some(open) if open.frontier.size() <= log.head => open,
            known => {
                known_checkpoints.extend(known.map(|open| self.checkpoint_in_memory(&open)));
                self.open(&mut log, &mut known_checkpoints).await?
            }
        };
        // At least up to the largest known checkpoint: a smaller tree is not signed, and each known checkpoint is
        // compared.
        let farthest = known_checkpoints.iter().map(|seen| seen.checkpoint.size).max().unwrap_or(0);
        let target = log.head.min(farthest.max(open.frontier.size() + LEAVES_PER_ROUND_MAX));
        let mut subtrees = Vec::new();
        while open.frontier.size() < target {
            self.extend(&log, &mut open, target, &known_checkpoints, &mut subtrees).await?;
        }
        let checkpoint =
            Checkpoint { origin: self.signer.origin(log.log_id), size: target, root: open.frontier.root() };
        let (signer, log_id) = (Arc::clone(&self.signer), log.log_id);
        let (note, subtrees) =
            run_blocking(move || Ok((signer.sign(log_id, &checkpoint, &subtrees)?, subtrees))).await?;
        let seal = Seal {
            tenant: log.tenant,
            log_id,
            size: target,
            note,
            verifier_key: self.signer.verifier_key(log_id)?.to_string(),
            subtrees,
        };
        rows::store_seal(&self.store, &seal).await?;
        metrics::counter!("annals_sealer_checkpoints_total").increment(1);
        self.publish(&log.slug, &seal.note).await;
        Ok(open)
    }

    /// Adds the next leaves.
    async fn extend(
        &self,
        log: &UnsealedLog,
        open: &mut OpenLog,
        target: u64,
        known_checkpoints: &[KnownCheckpoint],
        subtrees: &mut Vec<(Node, Hash)>,
    ) -> Result<(), AuditError> {
        let size = open.frontier.size();
        let to = target.min(size + CHUNK_LEAVES);
        // One leaf more than needed: the last known leaf must be unchanged.
        let mut leaves = rows::leaves(&self.store, log.tenant, size.saturating_sub(1), to).await?.into_iter();
        if size > 0 && leaves.next() != Some(open.last) {
            return Err(AuditError::Rejected(format!(
                "the leaf at position {size} is not the one that was sealed"
            )));
        }
        if leaves.len() as u64 != to - size {
            return Err(AuditError::Rejected(format!("events are missing between {size} and {to}")));
        }
        for leaf in leaves {
            open.frontier.push(leaf, |node, hash| {
                if is_stored(node) {
                    subtrees.push((node, hash));
                }
            });
            open.last = leaf;
            compare(&open.frontier, known_checkpoints)?;
        }
        metrics::counter!("annals_sealer_leaves_total").increment(to - size);
        Ok(())
    }

    /// Rebuilds the frontier from the database, and collects the known checkpoints.
    async fn open(
        &self,
        log: &mut UnsealedLog,
        known_checkpoints: &mut Vec<KnownCheckpoint>,
    ) -> Result<OpenLog, AuditError> {
        let kept = rows::sealed_log(&self.store, log.tenant).await?;
        let kept = kept.filter(|kept| kept.log_id == log.log_id && kept.size > 0);
        let kept = kept.map(|kept| self.stored_checkpoint(log.log_id, kept.note)).transpose()?;
        let size = kept.as_ref().map_or(0, |kept| kept.checkpoint.size);
        known_checkpoints.extend(kept);
        known_checkpoints.extend(self.signer_checkpoint(log.log_id).await?);
        known_checkpoints.extend(self.published_checkpoint(log).await);
        // The end is read after the known checkpoints: another sealer may have signed events appended since this round
        // began.
        let end = rows::end_of_log(&self.store, log.tenant, log.log_id).await?;
        log.head = end.ok_or(AuditError::Bounds("the log was replaced meanwhile"))?;
        if let Some(went_back) = find_rollback(log, known_checkpoints) {
            self.compare_remaining(log, known_checkpoints).await?;
            return Err(went_back);
        }
        let nodes = Span { start: 0, end: size }.nodes();
        let hashes = rows::subtrees(&self.store, log.tenant, &nodes).await?;
        let peaks = nodes.iter().map(|node| hashes.get(node).copied()).collect::<Option<Vec<_>>>();
        let frontier = peaks.and_then(|peaks| Frontier::new(size, peaks));
        let frontier = frontier
            .ok_or_else(|| AuditError::Rejected(format!("subtrees below position {size} are missing")))?;
        compare(&frontier, known_checkpoints)?;
        let last = rows::leaves(&self.store, log.tenant, size.saturating_sub(1), size).await?;
        Ok(OpenLog { log_id: log.log_id, frontier, last: last.first().copied().unwrap_or_default() })
    }

    /// The remaining events of a restored log must be the signed ones, as far as the signer knows: complete tiles, and
    /// the first events up to the size of each known checkpoint.
    async fn compare_remaining(
        &self,
        log: &UnsealedLog,
        known_checkpoints: &[KnownCheckpoint],
    ) -> Result<(), AuditError> {
        let (signer, log_id) = (Arc::clone(&self.signer), log.log_id);
        let tiles = run_blocking(move || signer.signed_tiles(log_id)).await?;
        let mut kept = OpenLog::empty(log_id);
        while kept.frontier.size() < log.head {
            let mut completed = Vec::new();
            self.extend(log, &mut kept, log.head, known_checkpoints, &mut completed).await?;
            for (node, hash) in completed.iter().filter(|(node, _)| node.height == TILE_HEIGHT) {
                if tiles.get(node.index as usize).is_some_and(|signed| signed != hash) {
                    let Span { start, end } = node.span();
                    return Err(AuditError::Rejected(format!(
                        "the log went back, and of the events {} to {end} not all are those that were signed",
                        start + 1
                    )));
                }
            }
        }
        Ok(())
    }

    /// The checkpoint that this process has sealed.
    fn checkpoint_in_memory(&self, open: &OpenLog) -> KnownCheckpoint {
        let (origin, size) = (self.signer.origin(open.log_id), open.frontier.size());
        KnownCheckpoint { checkpoint: Checkpoint { origin, size, root: open.frontier.root() }, note: None }
    }

    /// The checkpoint in the database. Only this signer's keys can have signed it.
    fn stored_checkpoint(&self, log_id: LogId, note: String) -> Result<KnownCheckpoint, AuditError> {
        match self.signer.verify_own(log_id, &note) {
            Ok(checkpoint) => Ok(KnownCheckpoint { checkpoint, note: Some(note) }),
            Err(AuditError::Note(error)) => {
                Err(AuditError::Rejected(format!("the checkpoint in the database: {error}")))
            }
            Err(other) => Err(other),
        }
    }

    /// The checkpoint in the signer's folder. It counts with any signature, but it is evidence only if this signer
    /// signed it:
    /// the folder may be of another deployment.
    async fn signer_checkpoint(&self, log_id: LogId) -> Result<Option<KnownCheckpoint>, AuditError> {
        let signer = Arc::clone(&self.signer);
        let Some(note) = run_blocking(move || signer.last_signed(log_id)).await? else { return Ok(None) };
        let checkpoint = Checkpoint::parse(&note)?;
        let is_own = self.signer.verify_own(log_id, &note).is_ok();
        Ok(Some(KnownCheckpoint { checkpoint, note: is_own.then_some(note) }))
    }

    /// The last checkpoint of this log on JetStream. Without NATS there is one known checkpoint less.
    async fn published_checkpoint(&self, log: &UnsealedLog) -> Option<KnownCheckpoint> {
        let nats = self.nats.as_ref()?;
        match nats::checkpoints::last(nats, &log.slug).await {
            Ok(note) => {
                let note = note?;
                let checkpoint = self.signer.verify_own(log.log_id, &note).ok()?;
                Some(KnownCheckpoint { checkpoint, note: Some(note) })
            }
            Err(error) => {
                tracing::debug!(error = %Causes(&error), "the published checkpoint could not be read");
                None
            }
        }
    }

    /// Consumers that miss this checkpoint get the next one.
    async fn publish(&self, slug: &TenantSlug, note: &str) {
        let Some(nats) = &self.nats else { return };
        if let Err(error) = nats::checkpoints::publish(nats, slug, note).await {
            tracing::debug!(error = %Causes(&error), "a checkpoint could not be published");
        }
    }
}

async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AuditError> + Send + 'static,
) -> Result<T, AuditError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| AuditError::Damaged(error.to_string()))?
}
