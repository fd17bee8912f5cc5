//! One transaction for the batches of several read models of a tenant.
//!
//! Read models that receive the same events write at the same time. The first of them waits for a moment, and writes
//! what the others have handed over together with its own batch.
//! If that fails, each read model writes its batch alone: so an event that one of them cannot apply stops only that one.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, try_join_all};
use schemas::engine::{LogId, RecordedEvent, TenantId};
use store::{CheckpointStep, StoreError, TenantStore, TenantTransaction};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::ProjectionError;
use super::projection::{Fold, Projection};
use super::table::Tables;

/// How often the first read model gives way to others before it writes.
const YIELDS_MAX: usize = 16;
/// How long the read models of a tenant write alone after a common transaction has failed.
const ALONE_TIME: Duration = Duration::from_secs(10);

/// A batch of a read model, as the transaction of another one can write it.
pub(crate) trait BatchPart: Send + Sync {
    /// The move of the checkpoint.
    fn step(&self) -> CheckpointStep<'_>;

    /// Writes the changes of the events to the table of a generation.
    fn apply<'a>(
        &'a self,
        transaction: &'a TenantTransaction,
        generation: u64,
    ) -> BoxFuture<'a, Result<(), ProjectionError>>;
}

/// The batch of the read model `P`.
pub(crate) struct ProjectionPart<P> {
    pub(crate) name: String,
    pub(crate) tables: Arc<Tables<P>>,
    pub(crate) log_id: LogId,
    /// The possible positions of the checkpoint.
    pub(crate) from: RangeInclusive<u64>,
    pub(crate) to: u64,
    pub(crate) events: Arc<Vec<RecordedEvent>>,
}

impl<P: Projection> BatchPart for ProjectionPart<P> {
    fn step(&self) -> CheckpointStep<'_> {
        CheckpointStep { consumer: &self.name, log_id: self.log_id, from: self.from.clone(), to: self.to }
    }

    fn apply<'a>(
        &'a self,
        transaction: &'a TenantTransaction,
        generation: u64,
    ) -> BoxFuture<'a, Result<(), ProjectionError>> {
        Box::pin(async move {
            let mut fold = Fold::<P>::new(self.tables.load(transaction, generation, &self.events).await?);
            for event in self.events.iter() {
                fold.apply(event)?;
            }
            self.tables.save(transaction, generation, fold.changes()).await
        })
    }
}

/// A part that was handed over, and where the result is awaited.
struct HandedOver {
    part: Box<dyn BatchPart>,
    written: oneshot::Sender<()>,
}

/// What a read model with a part does.
enum HandOver {
    /// It writes alone.
    Alone,
    /// It writes its part and those that are handed over to it.
    First(Box<dyn BatchPart>),
    /// Another one writes its part.
    Later(oneshot::Receiver<()>),
}

/// The common transactions of the read models of a process.
#[derive(Default)]
pub(crate) struct SharedWrites(Mutex<State>);

#[derive(Default)]
struct State {
    /// By tenant: what was handed over to the read model that writes first.
    open: HashMap<TenantId, Vec<HandedOver>>,
    /// Tenants whose read models write alone, and until when.
    alone: HashMap<TenantId, Instant>,
}

impl SharedWrites {
    /// Writes the part together with those of other read models.
    /// Returns `false` if nothing was written: then the read model writes alone.
    pub(crate) async fn write(&self, tenant: &TenantStore, part: impl BatchPart + 'static) -> bool {
        match self.hand_over(tenant.id(), Box::new(part)) {
            HandOver::Alone => false,
            HandOver::First(part) => self.lead(tenant, part).await,
            // An error means that the common transaction was given up.
            HandOver::Later(written) => written.await.is_ok(),
        }
    }

    fn hand_over(&self, tenant: TenantId, part: Box<dyn BatchPart>) -> HandOver {
        let mut state = self.lock();
        if state.alone.get(&tenant).is_some_and(|until| Instant::now() < *until) {
            return HandOver::Alone;
        }
        state.alone.remove(&tenant);
        if let Some(open) = state.open.get_mut(&tenant) {
            let (written, receiver) = oneshot::channel();
            open.push(HandedOver { part, written });
            return HandOver::Later(receiver);
        }
        state.open.insert(tenant, Vec::new());
        HandOver::First(part)
    }

    async fn lead(&self, tenant: &TenantStore, part: Box<dyn BatchPart>) -> bool {
        let mut lead = Lead { writes: self, tenant: tenant.id(), is_open: true, is_failing: false };
        for _ in 0..YIELDS_MAX {
            tokio::task::yield_now().await;
        }
        let others = self.lock().open.remove(&tenant.id()).unwrap_or_default();
        lead.is_open = false;
        if others.is_empty() {
            return false;
        }
        lead.is_failing = true;
        let parts: Vec<&dyn BatchPart> =
            std::iter::once(&*part).chain(others.iter().map(|other| &*other.part)).collect();
        if let Err(error) = write_all(tenant, &parts).await {
            tracing::debug!(tenant = %tenant.id(), code = error.code(), "read models are written one by one");
            return false;
        }
        lead.is_failing = false;
        for other in others {
            // The feed of the other read model may have ended.
            let _ = other.written.send(());
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Code that holds this lock does not panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The read model that writes first. It may fail, panic or be dropped at any point.
struct Lead<'a> {
    writes: &'a SharedWrites,
    tenant: TenantId,
    /// Others may hand over.
    is_open: bool,
    /// A common transaction was begun and has not succeeded.
    is_failing: bool,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut state = self.writes.lock();
        if self.is_open {
            // Those that wait for this one write alone.
            state.open.remove(&self.tenant);
        }
        if self.is_failing {
            state.alone.insert(self.tenant, Instant::now() + ALONE_TIME);
        }
    }
}

/// Writes the parts in one transaction.
async fn write_all(tenant: &TenantStore, parts: &[&dyn BatchPart]) -> Result<(), ProjectionError> {
    let transaction = tenant.begin_worker_transaction().await?;
    let steps: Vec<CheckpointStep<'_>> = parts.iter().map(|part| part.step()).collect();
    // This comes first: it locks the checkpoints, and so the rows and generations that are read below.
    if !transaction.move_checkpoints(&steps).await? {
        return Err(StoreError::Unavailable("another process has moved a checkpoint".to_owned()).into());
    }
    let names: Vec<&str> = steps.iter().map(|step| step.consumer).collect();
    let generations = transaction.generations(&names).await?;
    let generation = |name: &str| generations.get(name).copied().unwrap_or(0);
    try_join_all(parts.iter().map(|part| part.apply(&transaction, generation(part.step().consumer)))).await?;
    Ok(transaction.commit().await?)
}
