//! Runs steps: claims their rows, sends their commands, records the result in the instance's stream and then in the
//! rows.
//! Tenants and steps run concurrently; a step that waits or fails delays no other step.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use commands::Executor;
use fairness::{Limits, Permits};
use schemas::engine::{TenantId, clock, ids};
use store::{
    AppendError, Causes, DeadLetter, DeadLetterStatus, StoreError, StreamAppend, TenantStore,
    TenantTransaction, VIOLATION_RETRY_INTERVAL, Workload,
};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::attempt::{AttemptOutcome, compensation_rows};
use super::due_tenants;
use super::process::{Process, command_id, consumer_name};
use super::react::FollowUps;
use super::rows::{self, NewStep, RejectedStep, StepAction, StepFailure, StepRow};
use super::saga_log::SagaLog;
use super::settings::SagaSettings;
use super::tenant_queue::TenantQueue;

/// Maximum steps of one tenant that are claimed at once.
const CLAIM_SIZE_MAX: usize = 64;
/// Maximum tenants that are handled at once.
const CONCURRENT_TENANTS_MAX: usize = 8;
/// How long a tenant may claim steps. Afterwards it is queued again, after the other tenants.
const TENANT_TIME_SLICE: Duration = Duration::from_millis(500);
/// Due tenants per read. Most of them may be assigned to other processes.
const DUE_TENANTS_PAGE_SIZE: u32 = 1_000;
/// Maximum tenants of this process per poll. The rest is found at the next poll.
const OWN_TENANTS_PER_POLL: usize = 200;
/// How long a claimed step belongs to its worker. After a crash, another worker claims it when the lease has expired.
const STEP_LEASE: Duration = Duration::from_secs(5);
/// How long a stopping runner waits for claimed steps.
const SHUTDOWN_DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum wait of a step, or of the poll for steps, after an outage.
const OUTAGE_DELAY_MAX: Duration = Duration::from_secs(5);

/// Runs the steps of one saga.
pub(super) struct StepRunner {
    pub(super) executor: Executor,
    pub(super) process: Arc<dyn Process>,
    pub(super) settings: SagaSettings,
    /// One permit for each command being sent, over all tenants.
    pub(super) permits: Permits<TenantId>,
    /// Consecutive outages by tenant.
    outages: Mutex<HashMap<TenantId, u32>>,
}

impl StepRunner {
    pub(super) fn new(executor: Executor, process: Arc<dyn Process>, settings: SagaSettings) -> Self {
        let limits = Limits {
            permits: settings.max_concurrent_steps,
            permits_per_key: settings.max_concurrent_steps.div_ceil(2),
            reserved: CONCURRENT_TENANTS_MAX.min(settings.max_concurrent_steps / 2),
            // The number of claimed steps is the limit.
            waiting: usize::MAX,
            waiting_total: usize::MAX,
        };
        let permits = Permits::new(limits, Duration::MAX);
        Self { executor, process, settings, permits, outages: Mutex::default() }
    }

    pub(super) fn saga(&self) -> &'static str {
        self.process.name()
    }

    pub(super) fn tenant(&self, id: TenantId) -> TenantStore {
        self.executor.store().tenant(id)
    }

    /// Runs due steps until `cancel` is cancelled. Then it waits up to `SHUTDOWN_DRAIN_TIMEOUT` for claimed steps.
    /// An interrupted step is safe; it is claimed again when its lease has expired.
    pub(super) async fn run(
        self: Arc<Self>,
        mut notifications: mpsc::Receiver<TenantId>,
        cancel: CancellationToken,
    ) {
        let mut queue = TenantQueue::default();
        let mut tasks: JoinSet<Result<bool, StoreError>> = JoinSet::new();
        let mut working: HashMap<tokio::task::Id, TenantId> = HashMap::new();
        let mut poll = tokio::time::interval(self.settings.poll);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures = 0;
        let mut looked_at = None;
        loop {
            while working.len() < CONCURRENT_TENANTS_MAX
                && let Some((tenant, wakeup)) = queue.next()
            {
                let handle = tasks.spawn(Arc::clone(&self).run_tenant(tenant, wakeup, cancel.clone()));
                working.insert(handle.id(), tenant);
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(tenant) = notifications.recv() => queue.add(tenant),
                Some(ended) = tasks.join_next_with_id() => {
                    let (id, more) = match ended {
                        Ok((id, Err(error))) if error.is_violation() => {
                            // The violation is already reported.
                            queue.pause(working[&id], Instant::now() + VIOLATION_RETRY_INTERVAL);
                            (id, Ok(false))
                        }
                        Ok((id, result)) => (id, result.map_err(|error| Causes(&error).to_string())),
                        Err(error) => (error.id(), Err(error.to_string())),
                    };
                    if let Some(tenant) = working.remove(&id) {
                        queue.finish(tenant);
                        if let Ok(true) = more {
                            queue.add(tenant);
                        }
                        if let Err(error) = more {
                            tracing::warn!(saga = self.saga(), %tenant, error, "steps were interrupted; they are taken up again");
                        }
                    }
                }
                _ = poll.tick() => match self.due(&mut looked_at).await {
                    Ok(tenants) => {
                        failures = 0;
                        for tenant in tenants {
                            queue.add(tenant);
                        }
                    }
                    Err(error) => {
                        failures += 1;
                        tracing::warn!(saga = self.saga(), error = %Causes(&error), "due steps cannot be looked for");
                        poll.reset_at(Instant::now() + self.outage_delay(failures));
                    }
                }
            }
        }
        let finish = async { while tasks.join_next().await.is_some() {} };
        drop(tokio::time::timeout(SHUTDOWN_DRAIN_TIMEOUT, finish).await);
    }

    /// Tenants with due steps. If a read ends early, the next one continues after it, so that tenants with old steps do
    /// not hide the others.
    async fn due(&self, after: &mut Option<(DateTime<Utc>, TenantId)>) -> Result<Vec<TenantId>, StoreError> {
        let (store, now) = (self.executor.store(), clock::now());
        let assignment = store.tenant_assignment(Workload::Sagas);
        let mut ours = Vec::new();
        loop {
            let page =
                due_tenants::with_due_steps(store, self.saga(), now, *after, DUE_TENANTS_PAGE_SIZE).await?;
            let is_last = page.len() < DUE_TENANTS_PAGE_SIZE as usize;
            *after = page.last().copied().filter(|_| !is_last);
            ours.extend(page.into_iter().map(|(_, tenant)| tenant).filter(|tenant| assignment.owns(*tenant)));
            if is_last || ours.len() >= OWN_TENANTS_PER_POLL {
                return Ok(ours);
            }
        }
    }

    fn outage_delay(&self, failures: u32) -> Duration {
        self.settings.retry.wait(failures).min(OUTAGE_DELAY_MAX)
    }

    /// Runs a tenant's due steps until none are left or its time slice is over. Returns whether there may be more.
    /// New steps are claimed while others run, so a slow step delays no other.
    /// Steps that end at the same time are recorded together.
    ///
    /// # Errors
    /// The database fails, or data of the tenant break a rule that always holds. Steps in progress are dropped; they
    /// are claimed again when their lease has expired.
    async fn run_tenant(
        self: Arc<Self>,
        tenant: TenantId,
        wakeup: Arc<Notify>,
        cancel: CancellationToken,
    ) -> Result<bool, StoreError> {
        let mut in_progress: JoinSet<(StepRow, Result<AttemptOutcome, StoreError>)> = JoinSet::new();
        let mut more = true;
        let begun = Instant::now();
        loop {
            let is_over = cancel.is_cancelled() || begun.elapsed() >= TENANT_TIME_SLICE;
            if more && in_progress.len() <= CLAIM_SIZE_MAX && !is_over {
                let claimed = self.claim(tenant).await?;
                more = claimed.len() == CLAIM_SIZE_MAX;
                for row in claimed {
                    let steps = Arc::clone(&self);
                    let span = self.span(tenant, &row);
                    let attempt = async move {
                        let outcome = steps.attempt(tenant, &row).await;
                        (row, outcome)
                    };
                    in_progress.spawn(attempt.instrument(span));
                }
            }
            if in_progress.is_empty() && (!more || is_over) {
                return Ok(more);
            }
            tokio::select! {
                Some(ended) = in_progress.join_next() => {
                    let mut chunk = vec![ended];
                    while let Some(ended) = in_progress.try_join_next() {
                        chunk.push(ended);
                    }
                    let (ended, panicked): (Vec<_>, Vec<_>) = chunk.into_iter().partition(Result::is_ok);
                    for error in panicked.into_iter().filter_map(Result::err) {
                        tracing::error!(saga = self.saga(), %tenant, error = %Causes(&error), "a step is taken up again later");
                    }
                    let mut outcomes = Vec::new();
                    let mut violated = Ok(());
                    for (row, outcome) in ended.into_iter().flatten() {
                        match outcome {
                            Ok(outcome) => outcomes.push((row, outcome)),
                            Err(violation) => violated = Err(violation),
                        }
                    }
                    more |= self.record_outcomes(tenant, outcomes).await?;
                    violated?;
                }
                () = wakeup.notified() => more = true,
            }
        }
    }

    async fn claim(&self, tenant: TenantId) -> Result<Vec<StepRow>, StoreError> {
        let transaction = self.tenant(tenant).begin_worker_transaction().await?;
        let claimed =
            rows::claim(&transaction, self.saga(), clock::now(), STEP_LEASE, CLAIM_SIZE_MAX).await?;
        transaction.commit().await?;
        Ok(claimed)
    }

    fn saga_log(&self) -> SagaLog<'_> {
        SagaLog { saga: self.saga(), key: self.executor.store().key() }
    }

    /// Records outcomes of steps: first in the instances' streams, then in the rows. Returns whether more steps follow.
    async fn record_outcomes(
        &self,
        tenant: TenantId,
        chunk: Vec<(StepRow, AttemptOutcome)>,
    ) -> Result<bool, StoreError> {
        let now = clock::now();
        let mut results = Vec::new();
        let mut facts: Vec<(usize, StreamAppend)> = Vec::new();
        // Steps that took effect and have a compensation.
        let mut completed = Vec::new();
        for (row, outcome) in chunk {
            if let (AttemptOutcome::Completed(_), StepAction::Send { .. }, true) =
                (&outcome, &row.payload.work, row.payload.can_be_undone)
            {
                completed.push(results.len());
            }
            let (outcome, fact) = self.classify(&row, outcome, now);
            facts.extend(fact.map(|fact| (results.len(), fact)));
            results.push((row, outcome));
        }
        self.record(tenant, facts, &mut results).await?;
        let mut late = Vec::new();
        for index in completed {
            if let (row, StepResult::Completed(follow_ups)) = &mut results[index] {
                late.extend(
                    self.compensate_if_late(tenant, row, follow_ups).await?.map(|fact| (index, fact)),
                );
            }
        }
        self.record(tenant, late, &mut results).await?;
        let transaction = self.tenant(tenant).begin_worker_transaction().await?;
        self.write(&transaction, &results).await?;
        transaction.commit().await?;
        for (row, results) in &results {
            self.count(tenant, row, results);
        }
        Ok(results
            .iter()
            .any(|(_, results)| matches!(results, StepResult::Completed(follow_ups) if !follow_ups.rows.is_empty())))
    }

    /// Appends events. A step whose event was not recorded is retried.
    ///
    /// # Errors
    /// Data of the tenant break a rule that always holds.
    async fn record(
        &self,
        tenant: TenantId,
        facts: Vec<(usize, StreamAppend)>,
        results: &mut [(StepRow, StepResult)],
    ) -> Result<(), StoreError> {
        let (indices, appends): (Vec<usize>, Vec<StreamAppend>) = facts.into_iter().unzip();
        let receipts = self.tenant(tenant).append_all(appends).await;
        for (index, receipt) in indices.into_iter().zip(receipts) {
            match receipt {
                Ok(_) => {}
                Err(AppendError::Unavailable(error)) if error.is_violation() => return Err(error),
                Err(error) => results[index].1 = StepResult::Deferred(Causes(&error).to_string()),
            }
        }
        Ok(())
    }

    /// Compensates a step that took effect while its instance was compensating.
    /// The stream already holds the step's completion. So the list of compensations either includes it, or it comes
    /// after the list and is compensated here.
    async fn compensate_if_late(
        &self,
        tenant: TenantId,
        row: &StepRow,
        follow_ups: &mut FollowUps,
    ) -> Result<Option<StreamAppend>, StoreError> {
        let instance = self.instance(tenant, row).await?;
        if let Some(said) = instance.compensations_for(&row.step) {
            follow_ups.rows.extend(compensation_rows(row, said).into_iter().flatten());
            return Ok(None);
        }
        let Some(compensations) = instance.compensation_for(&row.step).filter(|_| instance.is_compensating())
        else {
            return Ok(None);
        };
        let compensations = vec![compensations];
        follow_ups.rows.extend(compensation_rows(row, &compensations).into_iter().flatten());
        Ok(Some(self.saga_log().compensation_started(row, String::new(), compensations, instance.version)))
    }

    /// What an outcome means for the step, and the event to record in the instance's stream, if any.
    fn classify(
        &self,
        row: &StepRow,
        outcome: AttemptOutcome,
        now: chrono::DateTime<chrono::Utc>,
    ) -> (StepResult, Option<StreamAppend>) {
        match outcome {
            AttemptOutcome::Completed(follow_ups) => {
                let fact = match &row.payload.work {
                    // The recorded reaction is the event.
                    StepAction::React => None,
                    StepAction::Discard { dead_letter, .. } => {
                        Some(self.saga_log().discarded(row, *dead_letter))
                    }
                    StepAction::Send { .. }
                    | StepAction::SendRecorded
                    | StepAction::Undo { .. }
                    | StepAction::Timer { .. } => Some(self.saga_log().completed(row)),
                };
                (StepResult::Completed(follow_ups), fact)
            }
            AttemptOutcome::TimerDue(timer, version) => {
                let fact = self.saga_log().fired(row, &timer, version);
                (StepResult::Completed(FollowUps::default()), Some(fact))
            }
            AttemptOutcome::Superseded => (StepResult::Completed(FollowUps::default()), None),
            AttemptOutcome::RetriesExhausted { code, compensations, rows, version } => {
                let fact = version
                    .map(|version| self.saga_log().compensation_started(row, code, compensations, version));
                (StepResult::Completed(FollowUps { rows, ..FollowUps::default() }), fact)
            }
            AttemptOutcome::Unavailable(error) => (StepResult::Deferred(error), None),
            AttemptOutcome::RejectedStep { code, message } => {
                let attempts = row.attempts + 1;
                let dead = attempts >= self.settings.retry.max_attempts;
                let dead_letter = row.dead_letter_id.unwrap_or_else(|| self.dead_letter_id(row));
                let rejected = RejectedStep {
                    attempts,
                    history: row.failures_with(StepFailure::new(now, &code, message)),
                    next_attempt_at: now + self.settings.retry.wait(attempts),
                    dead_letter: dead.then_some(dead_letter),
                };
                let of_reaction = row.payload.work == StepAction::React;
                let fact = if of_reaction { None } else { self.saga_log().failed(row, &rejected) };
                (StepResult::RejectedStep(rejected), fact)
            }
        }
    }

    fn dead_letter_id(&self, row: &StepRow) -> Uuid {
        ids::derived_id(command_id(self.saga(), row.instance, &row.step), "dead_letter")
    }

    async fn write(
        &self,
        transaction: &TenantTransaction,
        results: &[(StepRow, StepResult)],
    ) -> Result<(), StoreError> {
        let done = results.iter().filter_map(|(row, results)| match results {
            StepResult::Completed(follow_ups) => Some((row, follow_ups)),
            StepResult::RejectedStep(_) | StepResult::Deferred(_) => None,
        });
        let (mut removed, mut follow_ups): (Vec<(Uuid, &str)>, Vec<NewStep>) = (Vec::new(), Vec::new());
        for (row, follows) in done {
            removed.push((row.instance, &row.step));
            removed.extend(follows.cancelled.iter().map(|(instance, row)| (*instance, row.as_str())));
            follow_ups.extend_from_slice(&follows.rows);
            // A discarded dead letter stays discarded.
            if let (Some(dead_letter), false) =
                (row.dead_letter_id, matches!(row.payload.work, StepAction::Discard { .. }))
            {
                transaction.set_dead_letter_status(dead_letter, DeadLetterStatus::Resolved).await?;
            }
        }
        rows::delete(transaction, self.saga(), &removed).await?;
        rows::insert(transaction, self.saga(), &follow_ups, clock::now()).await?;
        for (row, results) in results {
            match results {
                StepResult::Completed(_) => {}
                StepResult::RejectedStep(rejected) => {
                    let ours = rows::record_rejection(transaction, self.saga(), row, rejected).await?;
                    if let (true, Some(id)) = (ours, rejected.dead_letter) {
                        transaction
                            .put_dead_letter(&self.dead_letter(transaction.tenant(), id, row, rejected))
                            .await?;
                    }
                }
                StepResult::Deferred(_) => {
                    let until = clock::now() + self.outage_delay(self.count_outage(transaction.tenant()));
                    rows::defer(transaction, self.saga(), row, until).await?;
                }
            }
        }
        Ok(())
    }

    fn dead_letter(&self, tenant: TenantId, id: Uuid, row: &StepRow, rejected: &RejectedStep) -> DeadLetter {
        let now = clock::now();
        let at = |failure: Option<&StepFailure>| {
            failure.and_then(|failure| failure.at.parse().ok()).unwrap_or(now)
        };
        let last = rejected.history.last();
        DeadLetter {
            id,
            tenant,
            consumer: consumer_name(self.saga()),
            position: row.payload.trigger_position,
            event_id: Some(row.trigger_event),
            subject: row.step.clone(),
            error_code: last.map(|failure| failure.code.clone()).unwrap_or_default(),
            error: last.map(|failure| failure.message.clone()).unwrap_or_default(),
            attempts: rejected.history.len() as u32,
            history: serde_json::to_value(&rejected.history).expect("a history serialises"),
            status: DeadLetterStatus::Open,
            first_at: at(rejected.history.first()),
            last_at: at(last),
        }
    }

    /// Counts an outage of a tenant and returns the number of consecutive ones.
    fn count_outage(&self, tenant: TenantId) -> u32 {
        let mut outages = self.outages.lock().unwrap_or_else(PoisonError::into_inner);
        let count = outages.entry(tenant).or_default();
        *count += 1;
        *count
    }

    /// The span with the fields of every log line about a step.
    fn span(&self, tenant: TenantId, row: &StepRow) -> Span {
        let request_id = row.payload.request_id.as_ref().map(tracing::field::display);
        tracing::info_span!(
            "saga_step", saga = self.saga(), %tenant, instance = %row.instance, step = row.step, request_id
        )
    }

    fn count(&self, tenant: TenantId, row: &StepRow, results: &StepResult) {
        let _entered = self.span(tenant, row).entered();
        let outcome = match results {
            StepResult::Completed(_) => {
                self.outages.lock().unwrap_or_else(PoisonError::into_inner).remove(&tenant);
                "completed"
            }
            StepResult::RejectedStep(RejectedStep { dead_letter: None, .. }) => "refused",
            StepResult::RejectedStep(RejectedStep { dead_letter: Some(dead_letter), history, .. }) => {
                let code = history.last().map(|failure| failure.code.as_str()).unwrap_or_default();
                tracing::warn!(code, %dead_letter, "a step was refused to the last; it stands in the dead letters");
                "dead"
            }
            StepResult::Deferred(error) => {
                tracing::warn!(error, "a step is put off");
                "postponed"
            }
        };
        metrics::counter!("annals_saga_steps_total", "saga" => self.saga(), "outcome" => outcome)
            .increment(1);
    }
}

/// What is written to the row of a step.
enum StepResult {
    /// The step is over; these rows follow.
    Completed(FollowUps),
    RejectedStep(RejectedStep),
    Deferred(String),
}
