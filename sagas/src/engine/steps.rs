//! Steps: taken in hand from their rows, their commands sent, the result recorded in the instance's stream and then in the
//! rows. Many at once, each tenant for itself; a step that waits or fails holds nobody up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use commands::Executor;
use fairness::{Limits, Permits};
use schemas::engine::{TenantId, clock, ids};
use store::{
    Causes, DeadLetter, DeadLetterStatus, SharedWork, StoreError, StreamAppend, TenantStore,
    TenantTransaction,
};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::attempt::{Outcome, undo_rows};
use super::facts::Facts;
use super::process::{Process, command_id, consumer_name};
use super::queue::Queue;
use super::react::Wanted;
use super::rows::{self, NewRow, Refusal, Refused, StepRow, Work};
use super::runner::SagaSettings;

/// Steps of one tenant taken in hand at a time.
const CLAIM: usize = 64;
/// Tenants at work at once.
const TENANTS: usize = 8;
/// How long a tenant takes steps in hand until others have their turn; it is queued again behind them.
const TURN: Duration = Duration::from_millis(500);
/// Due tenants read at a time; most of them may be other processes'.
const FOUND: u32 = 1_000;
/// Own tenants that are enough for one look: there is another one soon.
const ENOUGH: usize = 200;
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
    pub(super) permits: Permits<TenantId>,
    /// Outages in a row, by tenant.
    outages: Mutex<HashMap<TenantId, u32>>,
}

impl Steps {
    pub(super) fn new(executor: Executor, process: Arc<dyn Process>, settings: SagaSettings) -> Self {
        let limits = Limits {
            permits: settings.steps_at_once,
            share: settings.steps_at_once.div_ceil(2),
            reserved: TENANTS.min(settings.steps_at_once / 2),
            // Bounded by the steps in hand.
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

    /// Takes steps as they come due, until cancelled. Then it finishes what is in hand, within bounds; leaving in the
    /// middle is safe, but such steps are taken up again only when their lease is over.
    pub(super) async fn run(self: Arc<Self>, mut hints: mpsc::Receiver<TenantId>, cancel: CancellationToken) {
        let mut queue = Queue::default();
        let mut tasks: JoinSet<Result<bool, StoreError>> = JoinSet::new();
        let mut working: HashMap<tokio::task::Id, TenantId> = HashMap::new();
        let mut poll = tokio::time::interval(self.settings.poll);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures = 0;
        let mut looked_at = None;
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
                    let (id, more) = match ended {
                        Ok((id, result)) => (id, result.map_err(|error| Causes(&error).to_string())),
                        Err(error) => (error.id(), Err(error.to_string())),
                    };
                    if let Some(tenant) = working.remove(&id) {
                        queue.ended(tenant);
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
                        poll.reset_at(Instant::now() + self.outage_wait(failures));
                    }
                }
            }
        }
        let finish = async { while tasks.join_next().await.is_some() {} };
        drop(tokio::time::timeout(FAREWELL, finish).await);
    }

    /// Tenants with due steps. A look that ends early goes on at the next one where it ended, so that tenants with old
    /// steps do not hide the others.
    async fn due(&self, after: &mut Option<(DateTime<Utc>, TenantId)>) -> Result<Vec<TenantId>, StoreError> {
        let (store, now) = (self.executor.store(), clock::now());
        let share = store.share(SharedWork::Sagas);
        let mut ours = Vec::new();
        loop {
            let page = store.tenants_with_due_saga_steps(self.saga(), now, *after, FOUND).await?;
            let is_last = page.len() < FOUND as usize;
            *after = page.last().copied().filter(|_| !is_last);
            ours.extend(page.into_iter().map(|(_, tenant)| tenant).filter(|tenant| share.owns(*tenant)));
            if is_last || ours.len() >= ENOUGH {
                return Ok(ours);
            }
        }
    }

    fn outage_wait(&self, failures: u32) -> Duration {
        self.settings.retry.wait(failures).min(OUTAGE_CAP)
    }

    /// Takes a tenant's due steps until there are no more or its turn is over, and says whether there may be more. New ones
    /// join while others are in hand, so that one that takes its time holds no other up; those that end together are
    /// recorded together.
    async fn take_all(
        self: Arc<Self>,
        tenant: TenantId,
        hinted: Arc<Notify>,
        cancel: CancellationToken,
    ) -> Result<bool, StoreError> {
        let mut in_hand: JoinSet<(StepRow, Outcome)> = JoinSet::new();
        let mut more = true;
        let begun = Instant::now();
        loop {
            let is_over = cancel.is_cancelled() || begun.elapsed() >= TURN;
            if more && in_hand.len() <= CLAIM && !is_over {
                let claimed = self.claim(tenant).await?;
                more = claimed.len() == CLAIM;
                for row in claimed {
                    let steps = Arc::clone(&self);
                    let span = self.span(tenant, &row);
                    let attempt = async move {
                        let outcome = steps.attempt(tenant, &row).await;
                        (row, outcome)
                    };
                    in_hand.spawn(attempt.instrument(span));
                }
            }
            if in_hand.is_empty() && (!more || is_over) {
                return Ok(more);
            }
            tokio::select! {
                Some(ended) = in_hand.join_next() => {
                    let mut chunk = vec![ended];
                    while let Some(ended) = in_hand.try_join_next() {
                        chunk.push(ended);
                    }
                    let (ended, panicked): (Vec<_>, Vec<_>) = chunk.into_iter().partition(Result::is_ok);
                    for error in panicked.into_iter().filter_map(Result::err) {
                        tracing::error!(saga = self.saga(), %tenant, error = %Causes(&error), "a step is taken up again later");
                    }
                    more |= self.settle(tenant, ended.into_iter().flatten().collect()).await?;
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

    fn facts(&self) -> Facts<'_> {
        Facts { saga: self.saga(), key: self.executor.store().key() }
    }

    /// Records what became of steps: first in the instances' streams, then in the rows. Returns whether steps follow.
    async fn settle(&self, tenant: TenantId, chunk: Vec<(StepRow, Outcome)>) -> Result<bool, StoreError> {
        let now = clock::now();
        let mut settled = Vec::new();
        let mut facts: Vec<(usize, StreamAppend)> = Vec::new();
        // Steps that took effect and can be taken back.
        let mut completed = Vec::new();
        for (row, outcome) in chunk {
            if let (Outcome::Done(_), Work::Send { .. }, true) =
                (&outcome, &row.task.work, row.task.can_be_undone)
            {
                completed.push(settled.len());
            }
            let (outcome, fact) = self.judge(&row, outcome, now);
            facts.extend(fact.map(|fact| (settled.len(), fact)));
            settled.push((row, outcome));
        }
        self.record(tenant, facts, &mut settled).await;
        let mut late = Vec::new();
        for index in completed {
            if let (row, Settled::Done(wanted)) = &mut settled[index] {
                late.extend(self.undo_if_late(tenant, row, wanted).await?.map(|fact| (index, fact)));
            }
        }
        self.record(tenant, late, &mut settled).await;
        let transaction = self.tenant(tenant).begin_projection().await?;
        self.write(&transaction, &settled).await?;
        transaction.commit().await?;
        for (row, settled) in &settled {
            self.count(tenant, row, settled);
        }
        Ok(settled
            .iter()
            .any(|(_, settled)| matches!(settled, Settled::Done(wanted) if !wanted.rows.is_empty())))
    }

    /// Appends facts; a step whose fact is not in the log is taken up again.
    async fn record(
        &self,
        tenant: TenantId,
        facts: Vec<(usize, StreamAppend)>,
        settled: &mut [(StepRow, Settled)],
    ) {
        let (indices, appends): (Vec<usize>, Vec<StreamAppend>) = facts.into_iter().unzip();
        let receipts = self.tenant(tenant).append_all(appends).await;
        for (index, receipt) in indices.into_iter().zip(receipts) {
            if let Err(error) = receipt {
                settled[index].1 = Settled::Postponed(Causes(&error).to_string());
            }
        }
    }

    /// A step that took effect while its instance was taking everything back is taken back as well. Its completion is in
    /// the stream by now, so it is either in the list of what is taken back or behind it.
    async fn undo_if_late(
        &self,
        tenant: TenantId,
        row: &StepRow,
        wanted: &mut Wanted,
    ) -> Result<Option<StreamAppend>, StoreError> {
        let instance = self.instance(tenant, row).await?;
        if let Some(said) = instance.undone_for(&row.step) {
            wanted.rows.extend(undo_rows(row, said).into_iter().flatten());
            return Ok(None);
        }
        let Some(undo) = instance.undo(&row.step).filter(|_| instance.is_compensating()) else {
            return Ok(None);
        };
        let undo = vec![undo];
        wanted.rows.extend(undo_rows(row, &undo).into_iter().flatten());
        Ok(Some(self.facts().compensation_started(row, String::new(), undo, instance.version)))
    }

    /// What an outcome means for the step, and the fact to record in the instance's stream, where there is one.
    fn judge(
        &self,
        row: &StepRow,
        outcome: Outcome,
        now: chrono::DateTime<chrono::Utc>,
    ) -> (Settled, Option<StreamAppend>) {
        match outcome {
            Outcome::Done(wanted) => {
                let fact = match &row.task.work {
                    // The reaction is the fact.
                    Work::React => None,
                    Work::Discard { dead_letter, .. } => Some(self.facts().discarded(row, *dead_letter)),
                    Work::Send { .. } | Work::SendRecorded | Work::Undo { .. } | Work::Timer { .. } => {
                        Some(self.facts().completed(row))
                    }
                };
                (Settled::Done(wanted), fact)
            }
            Outcome::Fires(timer, version) => {
                let fact = self.facts().fired(row, &timer, version);
                (Settled::Done(Wanted::default()), Some(fact))
            }
            Outcome::Obsolete => (Settled::Done(Wanted::default()), None),
            Outcome::GivenUp { code, undo, rows, version } => {
                let fact = version.map(|version| self.facts().compensation_started(row, code, undo, version));
                (Settled::Done(Wanted { rows, ..Wanted::default() }), fact)
            }
            Outcome::Outage(error) => (Settled::Postponed(error), None),
            Outcome::Refused { code, message } => {
                let attempts = row.attempts + 1;
                let dead = attempts >= self.settings.retry.max_attempts;
                let letter = row.dead_letter_id.unwrap_or_else(|| self.dead_letter_id(row));
                let refused = Refused {
                    attempts,
                    history: row.history_with(Refusal::new(now, &code, message)),
                    next_attempt_at: now + self.settings.retry.wait(attempts),
                    dead_letter: dead.then_some(letter),
                };
                let of_reaction = row.task.work == Work::React;
                let fact = if of_reaction { None } else { self.facts().failed(row, &refused) };
                (Settled::Refused(refused), fact)
            }
        }
    }

    fn dead_letter_id(&self, row: &StepRow) -> Uuid {
        ids::derived_id(command_id(self.saga(), row.instance, &row.step), "dead_letter")
    }

    async fn write(
        &self,
        transaction: &TenantTransaction,
        settled: &[(StepRow, Settled)],
    ) -> Result<(), StoreError> {
        let done = settled.iter().filter_map(|(row, settled)| match settled {
            Settled::Done(wanted) => Some((row, wanted)),
            Settled::Refused(_) | Settled::Postponed(_) => None,
        });
        let (mut gone, mut wanted): (Vec<(Uuid, &str)>, Vec<NewRow>) = (Vec::new(), Vec::new());
        for (row, follows) in done {
            gone.push((row.instance, &row.step));
            gone.extend(follows.cancelled.iter().map(|(instance, row)| (*instance, row.as_str())));
            wanted.extend_from_slice(&follows.rows);
            // One that was discarded stays so.
            if let (Some(letter), false) = (row.dead_letter_id, matches!(row.task.work, Work::Discard { .. }))
            {
                transaction.set_dead_letter_status(letter, DeadLetterStatus::Resolved).await?;
            }
        }
        rows::delete(transaction, self.saga(), &gone).await?;
        rows::insert(transaction, self.saga(), &wanted, clock::now()).await?;
        for (row, settled) in settled {
            match settled {
                Settled::Done(_) => {}
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

    /// What every log line about a step carries.
    fn span(&self, tenant: TenantId, row: &StepRow) -> Span {
        let request_id = row.task.request_id.as_ref().map(tracing::field::display);
        tracing::info_span!(
            "saga_step", saga = self.saga(), %tenant, instance = %row.instance, step = row.step, request_id
        )
    }

    fn count(&self, tenant: TenantId, row: &StepRow, settled: &Settled) {
        let _entered = self.span(tenant, row).entered();
        let outcome = match settled {
            Settled::Done(_) => {
                self.outages.lock().unwrap_or_else(PoisonError::into_inner).remove(&tenant);
                "completed"
            }
            Settled::Refused(Refused { dead_letter: None, .. }) => "refused",
            Settled::Refused(Refused { dead_letter: Some(dead_letter), history, .. }) => {
                let code = history.last().map(|refusal| refusal.code.as_str()).unwrap_or_default();
                tracing::warn!(code, %dead_letter, "a step was refused to the last; it stands in the dead letters");
                "dead"
            }
            Settled::Postponed(error) => {
                tracing::warn!(error, "a step is put off");
                "postponed"
            }
        };
        metrics::counter!("annals_saga_steps_total", "saga" => self.saga(), "outcome" => outcome)
            .increment(1);
    }
}

/// What is written of a step.
enum Settled {
    /// It is over; what follows from it.
    Done(Wanted),
    Refused(Refused),
    Postponed(String),
}
