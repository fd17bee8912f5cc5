//! Saga instances as operators see them: a list with states, and the history of one.
//! The stream of an instance holds what happened; its rows hold what is still to do.

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use schemas::engine::{RecordedEvent, StreamName};
use schemas::saga::{
    SagaCompensationStarted, SagaFact, SagaReacted, SagaStep, SagaStepFailed, instance_stream,
};
use store::{DeadLetter, StoreError, TenantStore};
use uuid::Uuid;

use super::instance::{Instance, StepState, TimerState, open_value};
use super::process::command_id;
use super::rows::{self, PendingStep};

/// Prefix of the stream categories of instances.
const CATEGORY_PREFIX: &str = "saga.";
/// Maximum streams read at once.
const CONCURRENT_READS_MAX: usize = 4;

/// Status of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceStatus {
    /// Its commands are being sent.
    Working,
    /// It waits only for a timer.
    Waiting,
    /// One of its steps is a dead letter.
    Stopped,
    /// It compensates its completed steps.
    Compensating,
    /// It has nothing left to do.
    Done,
}

impl InstanceStatus {
    /// All statuses.
    pub const ALL: [Self; 5] = [Self::Working, Self::Waiting, Self::Stopped, Self::Compensating, Self::Done];

    /// The name that operators see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Waiting => "waiting",
            Self::Stopped => "stopped",
            Self::Compensating => "compensating",
            Self::Done => "done",
        }
    }

    fn of(instance: &Instance, rows: &[PendingStep]) -> Self {
        let has = |state| instance.steps.values().any(|step| *step == state);
        if rows.iter().any(|row| row.is_dead) || has(StepState::Failed) && rows.is_empty() {
            Self::Stopped
        } else if instance.is_compensating() && (has(StepState::Pending) || !rows.is_empty()) {
            Self::Compensating
        } else if has(StepState::Pending) || rows.iter().any(|row| !row.is_timer()) {
            Self::Working
        } else if rows.is_empty()
            && !instance.timers.values().any(|timer| matches!(timer, TimerState::Set(_)))
        {
            Self::Done
        } else {
            Self::Waiting
        }
    }
}

/// Summary of one instance.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceSummary {
    /// The name of the saga.
    pub saga: String,
    /// The id of the instance.
    pub instance: Uuid,
    /// Its status.
    pub status: InstanceStatus,
    /// Its state, in the saga's own word.
    pub phase: String,
    /// The next step or timer, or the step that stopped it.
    pub step: Option<String>,
    /// When that step is attempted next.
    pub next_due: Option<DateTime<Utc>>,
    /// When it reached this state.
    pub since: DateTime<Utc>,
}

impl InstanceSummary {
    /// Its stream, which is also the cursor of the next page of a list.
    pub fn stream(&self) -> StreamName {
        instance_stream(&self.saga, self.instance)
    }

    fn new(saga: &str, id: Uuid, instance: &Instance, facts: &[RecordedEvent], rows: &[PendingStep]) -> Self {
        let next = rows.iter().min_by_key(|row| (!row.is_dead, row.next_attempt_at));
        Self {
            saga: saga.to_owned(),
            instance: id,
            status: InstanceStatus::of(instance, rows),
            phase: instance.state.clone(),
            step: next.map(|row| row.step.clone()),
            next_due: next.filter(|row| !row.is_dead).map(|row| row.next_attempt_at),
            since: facts.last().map(|fact| fact.recorded_at).unwrap_or_default(),
        }
    }
}

/// A command of an instance, with its outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutcome {
    /// The step's label.
    pub step: String,
    /// The command with its name, as it is sent; null if its subject was erased.
    pub command: serde_json::Value,
    /// The command id.
    pub command_id: Uuid,
    /// The state of the step.
    pub state: StepState,
    /// The number of rejected attempts that are recorded.
    pub attempts: u32,
    /// The error code of the last rejection.
    pub last_error: Option<String>,
    /// When it is attempted next.
    pub next_due: Option<DateTime<Utc>>,
}

/// The history of an instance.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceHistory {
    /// Its summary.
    pub summary: InstanceSummary,
    /// The events of its stream, in order.
    pub facts: Vec<RecordedEvent>,
    /// Its commands, in the order of the reactions.
    pub steps: Vec<StepOutcome>,
    /// Its timers, by label.
    pub timers: Vec<(String, TimerState)>,
    /// Its dead letters.
    pub dead_letters: Vec<DeadLetter>,
}

/// A page of a tenant's instances, by saga and id, after the stream `after`.
///
/// # Errors
/// [`StoreError`] if the database fails or a stored event cannot be parsed.
pub async fn list_instances(
    tenant: &TenantStore,
    after: Option<&StreamName>,
    limit: u32,
) -> Result<Vec<InstanceSummary>, StoreError> {
    let streams = tenant.streams(CATEGORY_PREFIX, after, limit).await?;
    let ids: Vec<(String, Uuid)> = streams
        .iter()
        .filter_map(|name| Some((name.category().strip_prefix(CATEGORY_PREFIX)?.to_owned(), name.uuid()?)))
        .collect();
    let instances: Vec<Uuid> = ids.iter().map(|(_, id)| *id).collect();
    let rows = pending_steps(tenant, &instances).await?;
    let summaries = ids.into_iter().map(|(saga, id)| {
        let of = rows.iter().filter(|row| row.saga == saga && row.instance == id).cloned();
        let rows: Vec<PendingStep> = of.collect();
        async move {
            let (instance, facts) = read(tenant, &saga, id).await?;
            Ok(InstanceSummary::new(&saga, id, &instance, &facts, &rows))
        }
    });
    stream::iter(summaries).buffered(CONCURRENT_READS_MAX).try_collect().await
}

/// The history of an instance; `None` if it does not exist.
///
/// # Errors
/// [`StoreError`] if the database fails or a stored event cannot be parsed.
pub async fn show_instance(
    tenant: &TenantStore,
    saga: &str,
    id: Uuid,
) -> Result<Option<InstanceHistory>, StoreError> {
    let (instance, facts) = read(tenant, saga, id).await?;
    if facts.is_empty() {
        return Ok(None);
    }
    let mut rows = pending_steps(tenant, &[id]).await?;
    rows.retain(|row| row.saga == saga);
    let (mut steps, mut letters) = (Vec::new(), Vec::new());
    for fact in &facts {
        match SagaFact::of(&fact.event_type, saga) {
            Some(SagaFact::Reacted) => {
                let reacted: SagaReacted = super::instance::read(fact)?;
                steps.extend(reacted.steps);
            }
            Some(SagaFact::CompensationStarted) => {
                let started: SagaCompensationStarted = super::instance::read(fact)?;
                steps.extend(started.steps);
            }
            Some(SagaFact::StepFailed) => {
                let failed: SagaStepFailed = super::instance::read(fact)?;
                letters.push(failed.dead_letter);
            }
            _ => {}
        }
    }
    letters.extend(rows.iter().filter_map(|row| row.dead_letter_id));
    letters.sort_unstable();
    letters.dedup();
    let mut dead_letters = Vec::new();
    for letter in letters {
        dead_letters.extend(tenant.store().dead_letter(letter).await?);
    }
    let outcome = |SagaStep { step, command, .. }: SagaStep| {
        let row = rows.iter().find(|row| row.step == step);
        let letter = dead_letters.iter().find(|letter| letter.subject == step);
        StepOutcome {
            command_id: command_id(saga, id, &step),
            state: instance.steps.get(&step).copied().unwrap_or(StepState::Pending),
            // The row counts attempts since an operator's last retry; the dead letter counts all.
            attempts: letter.map_or(0, |letter| letter.attempts).max(row.map_or(0, |row| row.attempts)),
            last_error: row
                .and_then(|row| row.last_error.clone())
                .or_else(|| letter.map(|letter| letter.error_code.clone())),
            next_due: row.filter(|row| !row.is_dead).map(|row| row.next_attempt_at),
            step,
            command: open_value(command).unwrap_or_default(),
        }
    };
    let steps = steps.into_iter().map(outcome).collect();
    let summary = InstanceSummary::new(saga, id, &instance, &facts, &rows);
    let timers = instance.timers.into_iter().collect();
    Ok(Some(InstanceHistory { summary, facts, steps, timers, dead_letters }))
}

async fn pending_steps(tenant: &TenantStore, instances: &[Uuid]) -> Result<Vec<PendingStep>, StoreError> {
    let transaction = tenant.begin_worker_transaction().await?;
    let rows = rows::pending_steps(&transaction, instances).await?;
    transaction.commit().await?;
    Ok(rows)
}

async fn read(
    tenant: &TenantStore,
    saga: &str,
    id: Uuid,
) -> Result<(Instance, Vec<RecordedEvent>), StoreError> {
    let facts: Vec<RecordedEvent> = tenant.read_stream(&instance_stream(saga, id), 1).try_collect().await?;
    Ok((Instance::folded(saga, &facts)?, facts))
}
