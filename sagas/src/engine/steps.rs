//! Steps: taken in hand from their rows, their commands sent, the result recorded in the instance's stream and then in the
//! rows. Many at once, each tenant for itself; a step that waits or fails holds nobody up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use commands::{Caller, CommandContext, DispatchError, Executor, dispatch};
use schemas::engine::{Metadata, TenantId, clock, ids};
use schemas::saga::{SagaFact, SagaStepCompleted, SagaStepFailed, instance_stream};
use serde::Serialize;
use store::{
    Claim, DeadLetter, DeadLetterStatus, ExpectedVersion, LogFilter, NewEvent, StoreError, StreamAppend,
    TenantStore, TenantTransaction,
};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::process::{Process, actor, command_id, consumer_name};
use super::queue::Queue;
use super::react::react_all;
use super::rows::{self, NewRow, Refusal, Refused, StepRow, Work};
use super::runner::SagaSettings;

/// Steps of one tenant taken in hand at a time.
const CLAIM: usize = 64;
/// Tenants at work at once.
const TENANTS: usize = 8;
/// Tenants found by one look for due steps.
const FOUND: u32 = 1_000;
/// How long steps in hand are nobody else's. After a crash they are taken up again when it is over.
const LEASE: Duration = Duration::from_secs(5);
/// How long a runner that stops waits for the steps in hand.
const FAREWELL: Duration = Duration::from_secs(2);
/// The longest wait of a step, or of the look for steps, after an outage.
const OUTAGE_CAP: Duration = Duration::from_secs(5);

/// Takes the steps of one process.
pub(super) struct Steps {
    pub(super) executor: Executor,
    pub(super) process: Arc<dyn Process>,
    pub(super) settings: SagaSettings,
    /// Commands being sent, in all tenants.
    permits: Semaphore,
    /// Outages in a row, by tenant.
    outages: Mutex<HashMap<TenantId, u32>>,
}

/// What became of a step in hand.
enum Outcome {
    /// Its command took effect, now or before.
    Done,
    /// The trigger was reacted to after all.
    Reacted(Vec<NewRow>),
    Refused {
        code: String,
        message: String,
    },
    Outage(String),
}

impl Steps {
    pub(super) fn new(executor: Executor, process: Arc<dyn Process>, settings: SagaSettings) -> Self {
        let permits = Semaphore::new(settings.steps_at_once);
        Self { executor, process, settings, permits, outages: Mutex::default() }
    }

    fn saga(&self) -> &'static str {
        self.process.name()
    }

    fn tenant(&self, id: TenantId) -> TenantStore {
        self.executor.store().tenant(id)
    }

    /// Takes steps as they come due, until cancelled. Then it finishes what is in hand, within bounds; leaving in the
    /// middle is safe, but such steps are taken up again only when their lease is over.
    pub(super) async fn run(self: Arc<Self>, mut hints: mpsc::Receiver<TenantId>, cancel: CancellationToken) {
        let mut queue = Queue::default();
        let mut tasks: JoinSet<Result<(), StoreError>> = JoinSet::new();
        let mut working: HashMap<tokio::task::Id, TenantId> = HashMap::new();
        let mut poll = tokio::time::interval(self.settings.poll);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures = 0;
        loop {
            while working.len() < TENANTS
                && let Some((tenant, hinted)) = queue.next()
            {
                let handle = tasks.spawn(Arc::clone(&self).take_all(tenant, hinted, cancel.clone()));
                working.insert(handle.id(), tenant);
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(tenant) = hints.recv() => queue.add(tenant),
                Some(ended) = tasks.join_next_with_id() => {
                    let (id, failed) = match ended {
                        Ok((id, result)) => (id, result.err().map(|error| error.to_string())),
                        Err(error) => (error.id(), Some(error.to_string())),
                    };
                    if let Some(tenant) = working.remove(&id) {
                        queue.ended(tenant);
                        if let Some(error) = failed {
                            tracing::warn!(saga = self.saga(), %tenant, error, "steps were interrupted; they are taken up again");
                        }
                    }
                }
                _ = poll.tick() => match self.due().await {
                    Ok(tenants) => {
                        failures = 0;
                        for tenant in tenants {
                            queue.add(tenant);
                        }
                    }
                    Err(error) => {
                        failures += 1;
                        tracing::warn!(saga = self.saga(), %error, "due steps cannot be looked for");
                        poll.reset_at(Instant::now() + self.outage_wait(failures));
                    }
                }
            }
        }
        let finish = async { while tasks.join_next().await.is_some() {} };
        drop(tokio::time::timeout(FAREWELL, finish).await);
    }

    async fn due(&self) -> Result<Vec<TenantId>, StoreError> {
        self.executor.store().tenants_with_due_saga_steps(self.saga(), clock::now(), FOUND).await
    }

    fn outage_wait(&self, failures: u32) -> Duration {
        self.settings.retry.wait(failures).min(OUTAGE_CAP)
    }

    /// Takes a tenant's due steps until there are no more. New ones join while others are in hand, so that one that
    /// takes its time holds no other up; those that end together are recorded together.
    async fn take_all(
        self: Arc<Self>,
        tenant: TenantId,
        hinted: Arc<Notify>,
        cancel: CancellationToken,
    ) -> Result<(), StoreError> {
        let mut in_hand: JoinSet<(StepRow, Outcome)> = JoinSet::new();
        let mut more = true;
        loop {
            if more && in_hand.len() <= CLAIM && !cancel.is_cancelled() {
                let claimed = self.claim(tenant).await?;
                more = claimed.len() == CLAIM;
                for row in claimed {
                    let steps = Arc::clone(&self);
                    in_hand.spawn(async move {
                        let outcome = steps.attempt(tenant, &row).await;
                        (row, outcome)
                    });
                }
            }
            if in_hand.is_empty() && (!more || cancel.is_cancelled()) {
                return Ok(());
            }
            tokio::select! {
                Some(ended) = in_hand.join_next() => {
                    let mut chunk = vec![ended];
                    while let Some(ended) = in_hand.try_join_next() {
                        chunk.push(ended);
                    }
                    let (ended, panicked): (Vec<_>, Vec<_>) = chunk.into_iter().partition(Result::is_ok);
                    for error in panicked.into_iter().filter_map(Result::err) {
                        tracing::error!(saga = self.saga(), %tenant, %error, "a step is taken up again later");
                    }
                    self.settle(tenant, ended.into_iter().flatten().collect()).await?;
                }
                () = hinted.notified() => more = true,
            }
        }
    }

    async fn claim(&self, tenant: TenantId) -> Result<Vec<StepRow>, StoreError> {
        let transaction = self.tenant(tenant).begin_projection().await?;
        let claimed = rows::claim(&transaction, self.saga(), clock::now(), LEASE, CLAIM).await?;
        transaction.commit().await?;
        Ok(claimed)
    }

    async fn attempt(&self, tenant: TenantId, row: &StepRow) -> Outcome {
        let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
        match &row.task.work {
            Work::Send { command } => {
                let context = CommandContext {
                    command_id: Some(command_id(self.saga(), row.instance, &row.step)),
                    correlation_id: Some(row.correlation_id),
                    causation_id: Some(row.trigger_event),
                    traceparent: row.task.traceparent.clone(),
                    ..CommandContext::new(tenant, Caller::system(actor(self.saga()).as_str()))
                };
                match dispatch(&self.executor, &context, command.clone()).await {
                    Ok(_) => Outcome::Done,
                    Err(DispatchError::Rejected { code, message }) => {
                        Outcome::Refused { code: code.to_owned(), message }
                    }
                    Err(DispatchError::Retryable(cause)) => Outcome::Outage(cause.to_string()),
                }
            }
            Work::React => match self.react_again(tenant, row).await {
                Ok(outcome) => outcome,
                Err(error) => Outcome::Outage(error.to_string()),
            },
        }
    }

    async fn react_again(&self, tenant: TenantId, row: &StepRow) -> Result<Outcome, StoreError> {
        let tenant = self.tenant(tenant);
        let position = row.task.trigger_position;
        let page = tenant
            .read_log_page(position.saturating_sub(1), Some(position), 1, &LogFilter::default())
            .await?;
        let mut outcomes = react_all(&tenant, self.process.as_ref(), &page.events).await?;
        Ok(match outcomes.pop() {
            Some((_, Ok(wanted))) => Outcome::Reacted(wanted),
            Some((_, Err(unfit))) => Outcome::Refused { code: unfit.code.to_owned(), message: unfit.message },
            None => Outcome::Reacted(Vec::new()),
        })
    }

    /// Records what became of steps: first in the instances' streams, then in the rows.
    async fn settle(&self, tenant: TenantId, chunk: Vec<(StepRow, Outcome)>) -> Result<(), StoreError> {
        let now = clock::now();
        let mut settled: Vec<(StepRow, Settled)> =
            chunk.into_iter().map(|(row, outcome)| self.judge(row, outcome, now)).collect();
        let facts: Vec<(usize, StreamAppend)> = settled
            .iter()
            .enumerate()
            .filter_map(|(index, (row, settled))| Some((index, self.fact(row, settled)?)))
            .collect();
        let (indices, appends): (Vec<usize>, Vec<StreamAppend>) = facts.into_iter().unzip();
        let receipts = self.tenant(tenant).append_all(appends).await;
        for (index, receipt) in indices.into_iter().zip(receipts) {
            if let Err(error) = receipt {
                settled[index].1 = Settled::Postponed(error.to_string());
            }
        }
        let transaction = self.tenant(tenant).begin_projection().await?;
        self.write(&transaction, &settled).await?;
        transaction.commit().await?;
        for (row, settled) in &settled {
            self.count(tenant, row, settled);
        }
        Ok(())
    }

    /// What an outcome means for the step.
    fn judge(
        &self,
        row: StepRow,
        outcome: Outcome,
        now: chrono::DateTime<chrono::Utc>,
    ) -> (StepRow, Settled) {
        let settled = match outcome {
            Outcome::Done => Settled::Done(Vec::new()),
            Outcome::Reacted(wanted) => Settled::Done(wanted),
            Outcome::Outage(error) => Settled::Postponed(error),
            Outcome::Refused { code, message } => {
                let attempts = row.attempts + 1;
                let dead = attempts >= self.settings.retry.max_attempts;
                let letter = row.dead_letter_id.unwrap_or_else(|| self.dead_letter_id(&row));
                Settled::Refused(Refused {
                    attempts,
                    history: row.history_with(Refusal::new(now, &code, message)),
                    next_attempt_at: now + self.settings.retry.wait(attempts),
                    dead_letter: dead.then_some(letter),
                })
            }
        };
        (row, settled)
    }

    fn dead_letter_id(&self, row: &StepRow) -> Uuid {
        ids::derived_id(command_id(self.saga(), row.instance, &row.step), "dead_letter")
    }

    /// The fact to record in the instance's stream, where there is one.
    fn fact(&self, row: &StepRow, settled: &Settled) -> Option<StreamAppend> {
        if row.task.work == Work::React {
            // The reaction is the fact.
            return None;
        }
        let command_id = command_id(self.saga(), row.instance, &row.step);
        match settled {
            Settled::Done(_) => {
                let completed = SagaStepCompleted { step: row.step.clone(), command_id };
                Some(self.append(row, SagaFact::StepCompleted, "completed", &completed))
            }
            Settled::Refused(Refused { dead_letter: Some(dead_letter), attempts, history, .. }) => {
                let failed = SagaStepFailed {
                    step: row.step.clone(),
                    command_id,
                    attempts: *attempts,
                    code: history.last().map(|refusal| refusal.code.clone()).unwrap_or_default(),
                    dead_letter: *dead_letter,
                };
                // It may be revived and fail again, which is another fact.
                Some(self.append(row, SagaFact::StepFailed, &format!("failed/{}", history.len()), &failed))
            }
            Settled::Refused(_) | Settled::Postponed(_) => None,
        }
    }

    fn append(&self, row: &StepRow, fact: SagaFact, label: &str, payload: &impl Serialize) -> StreamAppend {
        let step_command = command_id(self.saga(), row.instance, &row.step);
        let command_id = ids::derived_id(step_command, label);
        let digest =
            self.executor.store().key().mac("saga-step", &[step_command.as_bytes(), label.as_bytes()]);
        let event = NewEvent {
            event_type: fact.event_type(self.saga()).expect("checked when the process was started"),
            payload: serde_json::to_vec(payload).expect("a fact serialises").into(),
            subject_keys: Vec::new(),
        };
        let metadata = Metadata {
            correlation_id: row.correlation_id,
            causation_id: Some(row.trigger_event),
            traceparent: row.task.traceparent.clone(),
            ..Metadata::new(actor(self.saga()), command_id)
        };
        let stream = instance_stream(self.saga(), row.instance);
        StreamAppend {
            claim: Some(Claim { command_id, digest }),
            ..StreamAppend::new(stream, ExpectedVersion::Any, vec![event], metadata)
        }
    }

    async fn write(
        &self,
        transaction: &TenantTransaction,
        settled: &[(StepRow, Settled)],
    ) -> Result<(), StoreError> {
        let done =
            |(row, settled): &(StepRow, Settled)| matches!(settled, Settled::Done(_)).then(|| row.clone());
        let done: Vec<StepRow> = settled.iter().filter_map(done).collect();
        rows::delete(transaction, self.saga(), &done.iter().collect::<Vec<_>>()).await?;
        for letter in done.iter().filter_map(|row| row.dead_letter_id) {
            transaction.set_dead_letter_status(letter, DeadLetterStatus::Resolved).await?;
        }
        for (row, settled) in settled {
            match settled {
                Settled::Done(wanted) => rows::insert(transaction, self.saga(), wanted, clock::now()).await?,
                Settled::Refused(refused) => {
                    let ours = rows::refuse(transaction, self.saga(), row, refused).await?;
                    if let (true, Some(id)) = (ours, refused.dead_letter) {
                        transaction
                            .put_dead_letter(&self.letter(transaction.tenant(), id, row, refused))
                            .await?;
                    }
                }
                Settled::Postponed(_) => {
                    let until = clock::now() + self.outage_wait(self.outage(transaction.tenant()));
                    rows::postpone(transaction, self.saga(), row, until).await?;
                }
            }
        }
        Ok(())
    }

    fn letter(&self, tenant: TenantId, id: Uuid, row: &StepRow, refused: &Refused) -> DeadLetter {
        let now = clock::now();
        let at =
            |refusal: Option<&Refusal>| refusal.and_then(|refusal| refusal.at.parse().ok()).unwrap_or(now);
        let last = refused.history.last();
        DeadLetter {
            id,
            tenant,
            consumer: consumer_name(self.saga()),
            position: row.task.trigger_position,
            event_id: Some(row.trigger_event),
            subject: row.step.clone(),
            error_code: last.map(|refusal| refusal.code.clone()).unwrap_or_default(),
            error: last.map(|refusal| refusal.message.clone()).unwrap_or_default(),
            attempts: refused.history.len() as u32,
            history: serde_json::to_value(&refused.history).expect("a history serialises"),
            status: DeadLetterStatus::Open,
            first_at: at(refused.history.first()),
            last_at: at(last),
        }
    }

    /// Counts an outage of a tenant and returns how many came in a row.
    fn outage(&self, tenant: TenantId) -> u32 {
        let mut outages = self.outages.lock().unwrap_or_else(PoisonError::into_inner);
        let count = outages.entry(tenant).or_default();
        *count += 1;
        *count
    }

    fn count(&self, tenant: TenantId, row: &StepRow, settled: &Settled) {
        let outcome = match settled {
            Settled::Done(_) => {
                self.outages.lock().unwrap_or_else(PoisonError::into_inner).remove(&tenant);
                "completed"
            }
            Settled::Refused(Refused { dead_letter: None, .. }) => "refused",
            Settled::Refused(Refused { dead_letter: Some(dead_letter), history, .. }) => {
                let code = history.last().map(|refusal| refusal.code.as_str()).unwrap_or_default();
                tracing::warn!(saga = self.saga(), %tenant, instance = %row.instance, step = row.step, code, %dead_letter,
                    "a step was refused to the last; it stands in the dead letters");
                "dead"
            }
            Settled::Postponed(error) => {
                tracing::warn!(saga = self.saga(), %tenant, instance = %row.instance, step = row.step, error,
                    "a step is put off");
                "postponed"
            }
        };
        metrics::counter!("saga_steps_total", "saga" => self.saga(), "outcome" => outcome).increment(1);
    }
}

/// What is written of a step.
enum Settled {
    /// It is over; the steps that follow from it, where it was a reaction.
    Done(Vec<NewRow>),
    Refused(Refused),
    Postponed(String),
}
