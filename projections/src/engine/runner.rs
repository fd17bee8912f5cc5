//! Updates one read model. Each batch is folded in memory and written with its checkpoint in one transaction, so an
//! event takes effect once, even if it is delivered twice or several processes run the projection.
//!
//! An event that cannot be applied becomes a dead letter and stops the read model for its tenant only.
//! It continues when an operator retries the event (`retrying`) or discards it (`discarded`).
//! An event of a newer version of the program is no dead letter: the read model waits for a process of that version.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use schemas::engine::{LogId, RecordedEvent, TenantId, clock, ids};
use serde_json::{Value, json};
use store::feed::{Batch, BatchOutcome, Consumer};
use store::{DeadLetter, DeadLetterStatus, Store, StoreError, TenantStore, TenantTransaction};
use uuid::Uuid;

use super::error::ProjectionError;
use super::projection::{Fold, Projection, key};
use super::shared_write::{ProjectionPart, SharedWrites};
use super::table::Tables;

/// Runs the projection of the read model `P`.
pub struct ProjectionRunner<P> {
    store: Store,
    name: String,
    tables: Arc<Tables<P>>,
    /// What the read models of this process write together.
    shared: Option<Arc<SharedWrites>>,
    /// Cached by tenant: the dead letter that stops it, or `None` if it runs.
    stopped_tenants: Mutex<HashMap<TenantId, Option<Uuid>>>,
    /// By tenant: the position of the event of a newer version that was reported last.
    reported: Mutex<HashMap<TenantId, u64>>,
}

/// Why a batch was not written.
enum BatchFailure {
    /// The event at this index cannot be applied. `None`: the database rejected the result of the whole batch.
    Poison(Option<usize>, ProjectionError),
    Store(StoreError),
}

impl From<StoreError> for BatchFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Options of one write.
#[derive(Clone, Copy, Default)]
struct WriteOptions {
    /// Resolves this dead letter together with the batch.
    resolve: Option<Uuid>,
    /// Skips the event at this position.
    skip: Option<u64>,
}

impl<P: Projection> ProjectionRunner<P> {
    /// Creates the runner of the projection.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            name: P::MODEL.name.to_owned(),
            tables: Arc::new(Tables::new()),
            shared: None,
            stopped_tenants: Mutex::default(),
            reported: Mutex::default(),
        }
    }

    /// Writes together with other read models where they have work at the same time.
    #[must_use]
    pub(crate) fn sharing(self, shared: Arc<SharedWrites>) -> Self {
        Self { shared: Some(shared), ..self }
    }

    /// Writes the events together with other read models. `None`: nothing was written.
    async fn write_shared(
        &self,
        tenant: &TenantStore,
        log_id: LogId,
        from: u64,
        events: &Arc<Vec<RecordedEvent>>,
    ) -> Option<BatchOutcome> {
        let (shared, first, last) = (self.shared.as_ref()?, events.first()?, events.last()?);
        let part = ProjectionPart {
            name: self.name.clone(),
            tables: Arc::clone(&self.tables),
            log_id,
            from: from..=first.position - 1,
            to: last.position,
            events: Arc::clone(events),
        };
        if !shared.write(tenant, part).await {
            return None;
        }
        self.count(events.len());
        Some(BatchOutcome::Advanced(last.position))
    }

    fn count(&self, events: usize) {
        metrics::counter!("annals_projection_events_total", "projection" => self.name.clone())
            .increment(events as u64);
    }

    /// Writes the changes of the events and moves the checkpoint to the last of them.
    async fn write(
        &self,
        tenant: &TenantStore,
        log_id: LogId,
        from: u64,
        events: &[RecordedEvent],
        options: WriteOptions,
    ) -> Result<BatchOutcome, BatchFailure> {
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            return Ok(BatchOutcome::Unaffected(from));
        };
        let (before, to) = (first.position - 1, last.position);
        let transaction = tenant.begin_worker_transaction().await?;
        // This comes first: it locks the checkpoint, so that the rows read below cannot be newer than `before`.
        if !transaction.move_checkpoint_within(&self.name, log_id, from..=before, to).await? {
            return self.checkpoint_conflict(&transaction).await.map_err(BatchFailure::Store);
        }
        // The lock on the checkpoint also fixes the generation, so generation and rows are read concurrently.
        let guess = tenant.cached_generation(P::MODEL.table);
        let (generation, loaded) = futures::try_join!(
            transaction.generation(&self.name),
            self.tables.load(&transaction, guess, events)
        )?;
        let loaded = if generation == guess {
            loaded
        } else {
            tenant.cache_generation(P::MODEL.table, generation);
            self.tables.load(&transaction, generation, events).await?
        };
        let mut fold = Fold::<P>::new(loaded);
        for (index, event) in events.iter().enumerate() {
            if options.skip != Some(event.position) {
                fold.apply(event).map_err(|error| BatchFailure::Poison(Some(index), error))?;
            }
        }
        self.tables.save(&transaction, generation, fold.changes()).await.map_err(|error| {
            if error.is_poison() {
                BatchFailure::Poison(None, error)
            } else {
                BatchFailure::Store(error.into())
            }
        })?;
        if let Some(letter) = options.resolve {
            transaction.set_dead_letter_status(letter, DeadLetterStatus::Resolved).await?;
        }
        transaction.commit().await?;
        self.count(events.len());
        Ok(BatchOutcome::Advanced(to))
    }

    /// Handles a checkpoint that is not the expected one: another process moved it, the batch is of a replaced log, or
    /// the batch was already written.
    async fn checkpoint_conflict(&self, transaction: &TenantTransaction) -> Result<BatchOutcome, StoreError> {
        if transaction.is_of_another_log(&self.name).await? {
            tracing::error!(
                projection = self.name, tenant = %transaction.tenant(),
                "the read model holds facts of a log that is no more; it must be rebuilt"
            );
            return Ok(BatchOutcome::Stopped);
        }
        Ok(BatchOutcome::Conflict)
    }

    /// Writes the events before the first one that cannot be applied. That event becomes a dead letter.
    async fn write_applicable(
        &self,
        tenant: &TenantStore,
        log_id: LogId,
        from: u64,
        events: &[RecordedEvent],
        resolve: Option<Uuid>,
    ) -> Result<BatchOutcome, StoreError> {
        let mut count = events.len();
        loop {
            // A retried dead letter is about the first event. It is resolved when that event has been written.
            let options = WriteOptions { resolve, skip: None };
            match self.write(tenant, log_id, from, &events[..count], options).await {
                Ok(handled) => return Ok(handled),
                Err(BatchFailure::Store(error)) => return Err(error),
                Err(BatchFailure::Poison(Some(0), error)) => {
                    return self.record_poison(tenant, log_id, from, &events[0], &error).await;
                }
                Err(BatchFailure::Poison(None, error)) if count == 1 => {
                    return self.record_poison(tenant, log_id, from, &events[0], &error).await;
                }
                Err(BatchFailure::Poison(Some(index), _)) => count = index,
                // The batch is halved until the failing event is alone. Events before it are written on the way.
                Err(BatchFailure::Poison(None, _)) => count /= 2,
            }
        }
    }

    /// Records an event that cannot be applied. Returns `Stopped`, or skips the event if an operator has discarded it.
    async fn record_poison(
        &self,
        tenant: &TenantStore,
        log_id: LogId,
        from: u64,
        event: &RecordedEvent,
        error: &ProjectionError,
    ) -> Result<BatchOutcome, StoreError> {
        let id = ids::derived_id(event.event_id, &self.name);
        let transaction = tenant.begin_worker_transaction().await?;
        // This locks the checkpoint right before the event, so that only one of two processes writes the dead letter.
        let before = event.position - 1;
        if !transaction.move_checkpoint_within(&self.name, log_id, from..=before, before).await? {
            return self.checkpoint_conflict(&transaction).await;
        }
        let known = self.store.dead_letter(id).await?;
        match known.as_ref().map(|letter| letter.status) {
            Some(DeadLetterStatus::Discarded) => {
                drop(transaction);
                let options = WriteOptions { skip: Some(event.position), resolve: None };
                return match self.write(tenant, log_id, from, std::slice::from_ref(event), options).await {
                    Ok(handled) => Ok(handled),
                    Err(BatchFailure::Store(error)) => Err(error),
                    Err(BatchFailure::Poison(_, error)) => Err(error.into()),
                };
            }
            Some(DeadLetterStatus::Open) => {}
            _ if matches!(error, ProjectionError::UnknownType(_)) => {
                // The checkpoint is right before the event: so `lag` shows what the read model waits for.
                transaction.commit().await?;
                self.report_waiting(tenant.id(), event);
                return Ok(BatchOutcome::Stopped);
            }
            Some(DeadLetterStatus::Retrying | DeadLetterStatus::Resolved) | None => {
                let letter = self.dead_letter(id, tenant.id(), event, error, known);
                transaction.put_dead_letter(&letter).await?;
                transaction.commit().await?;
                metrics::counter!("annals_projection_dead_letters_total", "projection" => self.name.clone())
                    .increment(1);
                let request_id = event.metadata.request_id.as_ref().map(tracing::field::display);
                tracing::error!(
                    projection = self.name, tenant = %tenant.id(), position = event.position,
                    event_type = %event.event_type, dead_letter = %id, request_id, error = letter.error,
                    "an event cannot be applied; the read model stands still for this tenant"
                );
            }
        }
        self.set_stopped(tenant.id(), Some(id));
        Ok(BatchOutcome::Stopped)
    }

    /// Reports once that the read model waits for a process of a newer version.
    fn report_waiting(&self, tenant: TenantId, event: &RecordedEvent) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.insert(tenant, event.position) == Some(event.position) {
            return;
        }
        metrics::counter!("annals_unknown_events_total", "consumer" => self.name.clone()).increment(1);
        tracing::warn!(
            projection = self.name, %tenant, position = event.position, event_type = %event.event_type,
            "only a newer version of the program knows the event; the read model waits for it"
        );
    }

    fn dead_letter(
        &self,
        id: Uuid,
        tenant: TenantId,
        event: &RecordedEvent,
        error: &ProjectionError,
        known: Option<DeadLetter>,
    ) -> DeadLetter {
        let now = clock::now();
        let (attempts, first_at, mut history) = match known {
            Some(letter) => (letter.attempts + 1, letter.first_at, letter.history),
            None => (1, now, json!([])),
        };
        let attempt = json!({"at": now, "code": error.code(), "error": error.describe()});
        match &mut history {
            Value::Array(attempts) => attempts.push(attempt),
            other => *other = json!([attempt]),
        }
        DeadLetter {
            id,
            tenant,
            consumer: self.name.clone(),
            position: event.position,
            event_id: Some(event.event_id),
            subject: event.event_type.to_string(),
            error_code: error.code().to_owned(),
            error: error.describe(),
            attempts,
            history,
            status: DeadLetterStatus::Open,
            first_at,
            last_at: now,
        }
    }

    fn set_stopped(&self, tenant: TenantId, stopped_by: Option<Uuid>) {
        self.stopped_tenants.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant, stopped_by);
    }

    /// The dead letter that stops the tenant, if any.
    async fn stopped_by(&self, tenant: &TenantStore) -> Result<Option<DeadLetter>, StoreError> {
        let known =
            self.stopped_tenants.lock().unwrap_or_else(PoisonError::into_inner).get(&tenant.id()).copied();
        let letter = match known {
            Some(None) => return Ok(None),
            Some(Some(id)) => self.store.dead_letter(id).await?,
            None => {
                let transaction = tenant.begin_worker_transaction().await?;
                let letter = transaction.unsettled_dead_letter(&self.name).await?;
                transaction.commit().await?;
                letter
            }
        };
        let unsettled = letter
            .filter(|letter| matches!(letter.status, DeadLetterStatus::Open | DeadLetterStatus::Retrying));
        self.set_stopped(tenant.id(), unsettled.as_ref().map(|letter| letter.id));
        Ok(unsettled)
    }
}

impl<P: Projection> Consumer for ProjectionRunner<P> {
    fn name(&self) -> &str {
        &self.name
    }

    async fn handle(&self, from: u64, batch: Batch) -> Result<BatchOutcome, StoreError> {
        let tenant = self.store.tenant(batch.tenant);
        let resolve = match self.stopped_by(&tenant).await? {
            Some(letter) if letter.status == DeadLetterStatus::Open => return Ok(BatchOutcome::Stopped),
            other => other.map(|letter| letter.id),
        };
        let events = Arc::new(batch.events);
        if resolve.is_none()
            && let Some(handled) = self.write_shared(&tenant, batch.log_id, from, &events).await
        {
            return Ok(handled);
        }
        let handled = self.write_applicable(&tenant, batch.log_id, from, &events, resolve).await?;
        if let (Some(_), BatchOutcome::Advanced(_)) = (resolve, handled) {
            self.set_stopped(batch.tenant, None);
        }
        Ok(handled)
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        key::<P>(event).is_some()
    }

    async fn is_paused(&self, tenant: TenantId) -> Result<bool, StoreError> {
        self.store.is_paused(&self.name, tenant).await
    }
}
