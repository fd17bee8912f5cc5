//! Rebuilds a read model of a tenant: fills its idle table from the log, compares it with the serving table, and
//! switches.
//! The projection and the readers continue meanwhile.
//!
//! The idle table has its own position (`read_models.rebuild_position`), which never exceeds the checkpoint of the
//! serving table.
//! At the switch both have the same position and the checkpoint is locked. The switch does not change the checkpoint,
//! so readers that wait for a position are not affected.

use std::collections::HashSet;

use schemas::engine::{LogId, RecordedEvent, ids};
use serde::Serialize;
use store::{Causes, Checkpoint, DeadLetterStatus, LogFilter, LogPage, Store, StoreError, TenantStore};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::error::ProjectionError;
use super::projection::{Fold, Projection, key};
use super::table::{Differences, Tables};

/// Maximum events of one write.
const BATCH_SIZE_MAX: usize = 2_000;
/// Maximum events that may be missing at the switch. The projection is blocked while they are written.
const SWITCH_LAG_MAX: u64 = 500;

/// Why a read model was not rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// No read model has this name.
    #[error("there is no read model {0}")]
    Unknown(String),
    /// The rebuild was cancelled; the old version still serves.
    #[error("cancelled")]
    Cancelled,
    /// Another process rebuilds the read model.
    #[error("it is being rebuilt already")]
    Busy,
    /// The tenant's log was replaced during the rebuild.
    #[error("the log was replaced meanwhile")]
    LogReplaced,
    /// An event cannot be applied, and no operator has discarded it.
    #[error("the event at position {position} cannot be applied: {}", source.describe())]
    Poison {
        /// The position of the event.
        position: u64,
        /// The reason.
        source: ProjectionError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Result of a rebuild.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RebuildReport {
    /// Whether the new version serves now.
    pub switched: bool,
    /// The position up to which the new version was built.
    pub position: u64,
    /// How often the read model has been switched. An even number means that the first table serves.
    pub generation: u64,
    /// Whether the versions were compared; false if the old one belongs to another log.
    pub compared: bool,
    /// The differences between the versions.
    pub differences: Differences,
}

/// Callback for progress: the current position and the target position.
pub type OnProgress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// Rebuilds the read model `P` of a tenant. With `force` it switches even if the versions differ.
///
/// # Errors
/// [`RebuildError`]; the old version still serves then.
pub async fn rebuild<P: Projection>(
    store: &Store,
    tenant: &TenantStore,
    force: bool,
    progress: OnProgress<'_>,
    cancel: &CancellationToken,
) -> Result<RebuildReport, RebuildError> {
    let mut rebuild = Rebuild::<P> {
        store,
        tenant,
        name: P::MODEL.name.to_owned(),
        tables: Tables::new(),
        token: ids::random_id(),
        generation: 0,
        at: 0,
        log_id: None,
        changed: HashSet::new(),
        progress,
        cancel,
    };
    rebuild.claim().await?;
    let done = rebuild.run(force).await;
    if !matches!(&done, Ok(rebuilt) if rebuilt.switched)
        && let Err(error) = rebuild.abandon().await
    {
        tracing::warn!(projection = rebuild.name, tenant = %tenant.id(), error = %Causes(&error),
            "what a rebuild leaves behind could not be removed; the next one does it");
    }
    done
}

struct Rebuild<'a, P> {
    store: &'a Store,
    tenant: &'a TenantStore,
    name: String,
    tables: Tables<P>,
    /// Fences the writes: each one checks that this claim is still valid.
    token: Uuid,
    /// The generation of the serving table.
    generation: u64,
    /// The new table contains all events up to this position.
    at: u64,
    log_id: Option<LogId>,
    /// Keys whose rows may have changed since the comparison.
    changed: HashSet<Uuid>,
    progress: OnProgress<'a>,
    cancel: &'a CancellationToken,
}

/// Positions of both versions, read at the same time.
struct RebuildProgress {
    /// The checkpoint of the serving version, if it belongs to the current log.
    serving: Option<Checkpoint>,
    /// The position that the new version must reach.
    target: u64,
}

enum SwitchOutcome {
    Switched(Box<RebuildReport>),
    /// Too many events were missing to write them under the lock.
    Lagging,
}

impl<P: Projection> Rebuild<'_, P> {
    async fn claim(&mut self) -> Result<(), RebuildError> {
        let transaction = self.tenant.begin_worker_transaction().await?;
        if !transaction.claim_rebuild(&self.name, self.token).await? {
            return Err(RebuildError::Busy);
        }
        self.generation = transaction.generation(&self.name).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn run(&mut self, force: bool) -> Result<RebuildReport, RebuildError> {
        self.clear_table(true).await?;
        let mut compared = None;
        loop {
            let rebuild_progress = self.rebuild_progress().await?;
            self.catch_up(rebuild_progress.target).await?;
            if rebuild_progress.serving.is_some() && compared.is_none() {
                let differences = self.compare().await?;
                if differences.count > 0 && !force {
                    return Ok(self.not_switched(differences));
                }
                compared = Some(differences);
                continue;
            }
            if let SwitchOutcome::Switched(rebuilt) = self.switch(compared.as_ref(), force).await? {
                return Ok(*rebuilt);
            }
        }
    }

    fn check_cancelled(&self) -> Result<(), RebuildError> {
        if self.cancel.is_cancelled() { Err(RebuildError::Cancelled) } else { Ok(()) }
    }

    fn not_switched(&self, differences: Differences) -> RebuildReport {
        let (position, generation) = (self.at, self.generation);
        RebuildReport { switched: false, position, generation, compared: true, differences }
    }

    /// Deletes the tenant's rows from the idle table.
    async fn clear_table(&self, cancellable: bool) -> Result<(), RebuildError> {
        let mut behind = None;
        loop {
            if cancellable {
                self.check_cancelled()?;
            }
            let transaction = self.tenant.begin_worker_transaction().await?;
            self.renew_claim(&transaction, 0, 0).await?;
            behind = self.tables.clear_chunk(&transaction, self.generation + 1, behind).await?;
            transaction.commit().await?;
            if behind.is_none() {
                return Ok(());
            }
        }
    }

    async fn renew_claim(
        &self,
        transaction: &store::TenantTransaction,
        position: u64,
        target: u64,
    ) -> Result<(), RebuildError> {
        let ours = transaction.advance_rebuild(&self.name, self.token, position, target).await?;
        if ours { Ok(()) } else { Err(RebuildError::Busy) }
    }

    async fn abandon(&self) -> Result<(), RebuildError> {
        match self.clear_table(false).await {
            // Another process has taken the table over.
            Err(RebuildError::Busy) => return Ok(()),
            other => other?,
        }
        let transaction = self.tenant.begin_worker_transaction().await?;
        transaction.release_rebuild(&self.name, self.token).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn rebuild_progress(&mut self) -> Result<RebuildProgress, RebuildError> {
        let transaction = self.tenant.begin_snapshot().await?;
        let head = transaction.head().await?;
        let checkpoint = transaction.checkpoint(&self.name).await?;
        transaction.commit().await?;
        if *self.log_id.get_or_insert(head.log_id) != head.log_id {
            return Err(RebuildError::LogReplaced);
        }
        let started = checkpoint.unwrap_or(Checkpoint { log_id: head.log_id, position: 0 });
        let serving = Some(started).filter(|at| at.log_id == head.log_id);
        Ok(RebuildProgress { serving, target: serving.map_or(head.position, |at| at.position) })
    }

    async fn page(&self, after: u64, up_to: u64) -> Result<LogPage, RebuildError> {
        let mut page =
            self.tenant.read_log_page(after, Some(up_to), BATCH_SIZE_MAX, &LogFilter::default()).await?;
        page.events = self.tenant.open(page.events).await?;
        if self.log_id.is_some_and(|log_id| log_id != page.log_id) {
            return Err(RebuildError::LogReplaced);
        }
        Ok(page)
    }

    /// Builds up to a position. The next page is read while one is written.
    async fn catch_up(&mut self, target: u64) -> Result<(), RebuildError> {
        (self.progress)(self.at, target);
        if self.at >= target {
            return Ok(());
        }
        let mut page = self.page(self.at, target).await?;
        loop {
            self.check_cancelled()?;
            let Some(last) = page.events.last().map(|event| event.position) else {
                return Err(
                    StoreError::Corrupt(format!("the log ends at {} and not at {target}", self.at)).into()
                );
            };
            let (written, next) =
                futures::join!(self.write_page(&page.events, target), self.page(last, target));
            written?;
            self.changed.extend(page.events.iter().filter_map(key::<P>));
            self.at = last;
            (self.progress)(self.at, target);
            if self.at >= target {
                return Ok(());
            }
            page = next?;
        }
    }

    /// Writes a page, in smaller parts if the event that fails must be found.
    async fn write_page(&self, events: &[RecordedEvent], target: u64) -> Result<(), RebuildError> {
        let mut skipped = HashSet::new();
        let mut rest = events;
        let mut count = rest.len();
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(count.min(rest.len()));
            match self.write(part, &skipped, target).await? {
                Ok(()) => {
                    rest = behind;
                    count = if skipped.is_empty() { rest.len() } else { count };
                }
                Err((at_fault, source)) => {
                    let index = at_fault.or((part.len() == 1).then_some(0));
                    match index.map(|index| &part[index]) {
                        Some(event) if self.is_discarded(event).await? => {
                            skipped.insert(event.position);
                        }
                        Some(event) => {
                            return Err(RebuildError::Poison { position: event.position, source });
                        }
                        None => count = part.len().div_ceil(2),
                    }
                }
            }
        }
        Ok(())
    }

    async fn is_discarded(&self, event: &RecordedEvent) -> Result<bool, StoreError> {
        let letter = self.store.dead_letter(ids::derived_id(event.event_id, &self.name)).await?;
        Ok(letter.is_some_and(|letter| letter.status == DeadLetterStatus::Discarded))
    }

    /// Writes events into the new table. The inner error says which event cannot be applied, if that is known.
    async fn write(
        &self,
        events: &[RecordedEvent],
        skipped: &HashSet<u64>,
        target: u64,
    ) -> Result<Result<(), (Option<usize>, ProjectionError)>, RebuildError> {
        let transaction = self.tenant.begin_worker_transaction().await?;
        let to = events.last().map_or(self.at, |event| event.position);
        self.renew_claim(&transaction, to, target).await?;
        if let Err(fault) = self.fold(&transaction, events, skipped).await? {
            return Ok(Err(fault));
        }
        transaction.commit().await?;
        Ok(Ok(()))
    }

    async fn fold(
        &self,
        transaction: &store::TenantTransaction,
        events: &[RecordedEvent],
        skipped: &HashSet<u64>,
    ) -> Result<Result<(), (Option<usize>, ProjectionError)>, StoreError> {
        let mut fold = Fold::<P>::new(self.tables.load(transaction, self.generation + 1, events).await?);
        for (index, event) in events.iter().enumerate() {
            if !skipped.contains(&event.position)
                && let Err(error) = fold.apply(event)
            {
                return Ok(Err((Some(index), error)));
            }
        }
        match self.tables.save(transaction, self.generation + 1, fold.changes()).await {
            Ok(()) => Ok(Ok(())),
            Err(error) if error.is_poison() => Ok(Err((None, error))),
            Err(error) => Err(error.into()),
        }
    }

    /// Compares the versions in one snapshot. Rows that the serving version has changed beyond the common position are
    /// compared at the switch.
    async fn compare(&mut self) -> Result<Differences, RebuildError> {
        let transaction = self.tenant.begin_snapshot().await?;
        let serving = transaction.checkpoint(&self.name).await?.map_or(0, |at| at.position);
        let mut ahead = HashSet::new();
        let mut read = self.at;
        while read < serving {
            let page = self.page(read, serving).await?;
            read = page.events.last().map_or(serving, |event| event.position);
            ahead.extend(page.events.iter().filter_map(key::<P>));
        }
        let may_continue = || !self.cancel.is_cancelled();
        let differences =
            self.tables.compare_all(&transaction, self.generation, &ahead, may_continue).await?;
        transaction.commit().await?;
        self.changed = ahead;
        differences.ok_or(RebuildError::Cancelled)
    }

    /// Switches the tables. The projection of this tenant waits from the lock on the checkpoint until the commit.
    async fn switch(
        &mut self,
        compared: Option<&Differences>,
        force: bool,
    ) -> Result<SwitchOutcome, RebuildError> {
        self.check_cancelled()?;
        let log_id = self.log_id.expect("known since the first look");
        let transaction = self.tenant.begin_worker_transaction().await?;
        self.renew_claim(&transaction, self.at, self.at).await?;
        if transaction.lock_checkpoint(&self.name).await?.is_none() {
            // The projection has no checkpoint yet, and the switch needs a row to lock.
            transaction.move_checkpoint(&self.name, log_id, 0, 0).await?;
        }
        let Some(checkpoint) = transaction.lock_checkpoint(&self.name).await? else {
            return Ok(SwitchOutcome::Lagging);
        };
        let mut differences = compared.cloned().unwrap_or_default();
        let position = if checkpoint.log_id == log_id && compared.is_some() {
            if checkpoint.position > self.at + SWITCH_LAG_MAX {
                return Ok(SwitchOutcome::Lagging);
            }
            if checkpoint.position > self.at {
                let events = self.page(self.at, checkpoint.position).await?.events;
                self.changed.extend(events.iter().filter_map(key::<P>));
                // An event that fails is handled without the lock.
                if self.fold(&transaction, &events, &HashSet::new()).await?.is_err() {
                    return Ok(SwitchOutcome::Lagging);
                }
            }
            let late = self.tables.compare_keys(&transaction, self.generation, &self.changed).await?;
            differences = differences.merge(late);
            if differences.count > 0 && !force {
                return Ok(SwitchOutcome::Switched(Box::new(self.not_switched(differences))));
            }
            checkpoint.position
        } else if checkpoint.log_id == log_id {
            // The projection has reached this log only now.
            return Ok(SwitchOutcome::Lagging);
        } else {
            // The old version belongs to a replaced log: no projection updates it, and there is nothing to compare.
            let at = Checkpoint { log_id, position: self.at };
            transaction.replace_checkpoint(&self.name, at).await?;
            self.at
        };
        let Some(generation) = transaction.switch_read_model(&self.name, self.token).await? else {
            return Err(RebuildError::Busy);
        };
        transaction.commit().await?;
        self.tenant.cache_generation(P::MODEL.table, generation);
        (self.progress)(position, position);
        self.at = position;
        let compared = compared.is_some();
        Ok(SwitchOutcome::Switched(Box::new(RebuildReport {
            switched: true,
            position,
            generation,
            compared,
            differences,
        })))
    }
}
