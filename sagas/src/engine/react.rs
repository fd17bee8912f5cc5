//! Reactions: appended to the instances' streams first, then turned into rows of steps together with the checkpoint.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use access::ErrorCode;
use chrono::{DateTime, TimeDelta, Utc};
use commands::AnyCommand;
use futures::future::try_join_all;
use schemas::contracts::known_prefix;
use schemas::engine::{DecodeError, Metadata, RecordedEvent, Sealed, TenantId, clock, ids};
use schemas::saga::{SagaFact, SagaReacted, SagaStep, SagaTimer, instance_stream};
use serde_json::Value;
use store::feed::{Batch, BatchOutcome, Consumer};
use store::{
    AppendError, DeadLetter, DeadLetterStatus, ExpectedVersion, IdempotencyClaim, Invariant, NewEvent, Store,
    StoreError, StreamAppend, TenantStore, TenantTransaction,
};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::instance::{Instance, StepState, TimerState, is_personal_data};
use super::process::{
    Process, Reaction, Step, Timer, Trigger, actor, consumer_name, reaction_id, timer_label,
};
use super::rows::{self, NewStep, StepAction, StepPayload};

/// Reacts to the events of a tenant, batch by batch.
pub(super) struct Reactor {
    store: Store,
    process: Arc<dyn Process>,
    consumer: String,
    /// Notifies the step runner of tenants with new steps. A lost notification costs one poll interval.
    notifications: mpsc::Sender<TenantId>,
    /// By tenant: the position of the event of a newer version that was reported last.
    reported: Mutex<HashMap<TenantId, u64>>,
}

/// A reaction that cannot be recorded; retries would fail too.
pub(super) struct Unprocessable {
    pub(super) code: String,
    pub(super) message: String,
}

impl Reactor {
    pub(super) fn new(
        store: Store,
        process: Arc<dyn Process>,
        notifications: mpsc::Sender<TenantId>,
    ) -> Self {
        let consumer = consumer_name(process.name());
        Self { store, process, consumer, notifications, reported: Mutex::default() }
    }
}

impl Consumer for Reactor {
    fn name(&self) -> &str {
        &self.consumer
    }

    async fn handle(&self, from: u64, batch: Batch) -> Result<BatchOutcome, StoreError> {
        let tenant = self.store.tenant(batch.tenant);
        let events = known_prefix(&batch.events);
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            return Ok(self.wait_for_newer_version(from, &batch));
        };
        let (before, to) = (first.position - 1, last.position);
        let mut steps = Vec::new();
        let mut cancelled = Vec::new();
        let mut dead_letters = Vec::new();
        let reactions = react_all(&tenant, self.process.as_ref(), events).await?;
        if reactions.is_empty() {
            return Ok(BatchOutcome::Unaffected(to));
        }
        for (event, outcome) in reactions {
            match outcome {
                Ok(follow_ups) => {
                    steps.extend(follow_ups.rows);
                    cancelled.extend(follow_ups.cancelled);
                }
                Err(unprocessable) => {
                    let dead_letter =
                        dead_letter(batch.tenant, &self.consumer, self.process.name(), event, unprocessable);
                    dead_letters.push((dead_letter, event.metadata.request_id.as_ref()));
                }
            }
        }
        let transaction = tenant.begin_worker_transaction().await?;
        rows::insert(&transaction, self.process.name(), &steps, clock::now()).await?;
        let cancelled: Vec<(Uuid, &str)> =
            cancelled.iter().map(|(instance, row)| (*instance, row.as_str())).collect();
        rows::delete(&transaction, self.process.name(), &cancelled).await?;
        for (dead_letter, request_id) in &dead_letters {
            let request_id = request_id.map(tracing::field::display);
            tracing::warn!(saga = self.process.name(), tenant = %batch.tenant, position = dead_letter.position,
                code = dead_letter.error_code, request_id, "a saga cannot react to an event; it stands in the dead letters");
            transaction.put_dead_letter(dead_letter).await?;
        }
        if !transaction.move_checkpoint_within(&self.consumer, batch.log_id, from..=before, to).await? {
            return self.checkpoint_conflict(&transaction).await;
        }
        transaction.commit().await?;
        if !steps.is_empty() {
            // If the channel is full, the step runner polls soon.
            let _ = self.notifications.try_send(batch.tenant);
        }
        Ok(BatchOutcome::Advanced(to))
    }
}

impl Reactor {
    /// The saga stops at an event that only a newer version of the program knows: its saga may react to it.
    fn wait_for_newer_version(&self, from: u64, batch: &Batch) -> BatchOutcome {
        let Some(event) = batch.events.first() else { return BatchOutcome::Unaffected(from) };
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.insert(batch.tenant, event.position) != Some(event.position) {
            metrics::counter!("annals_unknown_events_total", "consumer" => self.consumer.clone())
                .increment(1);
            tracing::warn!(consumer = self.consumer, tenant = %batch.tenant, position = event.position,
                event_type = %event.event_type,
                "only a newer version of the program knows the event; the saga waits for it");
        }
        BatchOutcome::Stopped
    }

    /// Handles a checkpoint that is not the expected one: another process moved it, the batch is of a replaced log, or
    /// the batch was already processed.
    async fn checkpoint_conflict(&self, transaction: &TenantTransaction) -> Result<BatchOutcome, StoreError> {
        if transaction.is_of_another_log(&self.consumer).await? {
            tracing::error!(consumer = self.consumer, tenant = %transaction.tenant(),
                "the saga has followed a log of this tenant that is no more; it stops here");
            return Ok(BatchOutcome::Stopped);
        }
        Ok(BatchOutcome::Conflict)
    }
}

/// The rows that follow from a reaction.
#[derive(Debug, Default)]
pub(super) struct FollowUps {
    /// Rows of steps and timers.
    pub(super) rows: Vec<NewStep>,
    /// Rows of cancelled timers.
    pub(super) cancelled: Vec<(Uuid, String)>,
}

/// An event and the result of its reaction.
type ReactionOutcome<'a> = (&'a RecordedEvent, Result<FollowUps, Unprocessable>);

/// Attempts of a reaction that depends on an instance's state. An attempt fails if the instance changed meanwhile.
const REACTION_ATTEMPTS_MAX: usize = 10;

/// Reacts to events and records the reactions. The rows follow from the recorded reaction: if one was recorded earlier,
/// it is used, not the one computed now.
pub(super) async fn react_all<'a>(
    tenant: &TenantStore,
    process: &dyn Process,
    events: &'a [RecordedEvent],
) -> Result<Vec<ReactionOutcome<'a>>, StoreError> {
    let mut outcomes = Vec::new();
    let mut rest = events;
    while !rest.is_empty() {
        let (round, behind) = rest.split_at(independent_prefix(process, rest));
        let mut again: Vec<&RecordedEvent> = round.iter().collect();
        for attempt in 0.. {
            again = react_batch(tenant, process, &again, &mut outcomes).await?;
            if again.is_empty() {
                break;
            }
            if attempt == REACTION_ATTEMPTS_MAX {
                return Err(StoreError::Unavailable("saga instances keep moving on".to_owned()));
            }
        }
        rest = behind;
    }
    Ok(outcomes)
}

/// How many events can be handled in one round. An instance whose state matters occurs once, because a reaction changes
/// it.
fn independent_prefix(process: &dyn Process, events: &[RecordedEvent]) -> usize {
    let mut seen = HashSet::new();
    let again = |event: &RecordedEvent| {
        process.route(event).ok().flatten().is_some_and(|instance| !seen.insert(instance))
    };
    events.iter().position(again).unwrap_or(events.len())
}

/// One round, appended at once so that the reactions share a commit. Returns the events whose instance changed after it
/// was read.
async fn react_batch<'a>(
    tenant: &TenantStore,
    process: &dyn Process,
    events: &[&'a RecordedEvent],
    outcomes: &mut Vec<ReactionOutcome<'a>>,
) -> Result<Vec<&'a RecordedEvent>, StoreError> {
    let undecodable = |error: DecodeError| {
        let message = format!("{error}: {}", error.source);
        Unprocessable { code: "UNDECODABLE".to_owned(), message }
    };
    let instances = try_join_all(events.iter().map(|event| instance_of(tenant, process, event))).await?;
    let mut reactions = Vec::new();
    let mut appends = Vec::new();
    for (event, routed) in events.iter().copied().zip(instances) {
        let (routed, instance) = match routed {
            Ok(Some((id, instance))) => (Some(id), instance),
            Ok(None) => (None, Instance::default()),
            Err(error) => {
                outcomes.push((event, Err(undecodable(error))));
                continue;
            }
        };
        if let (Some(id), Some(recorded)) = (routed, instance.reaction_to(event.event_id)) {
            outcomes.push((event, follow_ups(event, id, recorded.clone(), Some(&instance))));
            continue;
        }
        match process.react(Trigger { tenant: tenant.id(), event, instance: &instance }) {
            Ok(None) => {}
            Ok(Some(reaction)) => {
                let expected = match (routed == Some(reaction.instance), instance.version) {
                    (false, _) => ExpectedVersion::Any,
                    (true, 0) => ExpectedVersion::NoStream,
                    (true, version) => ExpectedVersion::Exact(version),
                };
                let (instance, reacted) = (reaction.instance, reacted(event, reaction));
                appends.push(reaction_append(tenant, process, instance, event, &reacted, expected));
                reactions.push((event, instance, reacted));
            }
            Err(error) => outcomes.push((event, Err(undecodable(error)))),
        }
    }
    let mut again = Vec::new();
    let receipts = tenant.append_all(appends).await;
    for ((event, instance, reacted), receipt) in reactions.into_iter().zip(receipts) {
        let outcome = match receipt {
            Ok(receipt) if receipt.duplicate => {
                let id = receipt.stream.uuid().unwrap_or(instance);
                let current = Instance::load(tenant, process.name(), id).await?;
                let recorded = current
                    .reaction_to(event.event_id)
                    .cloned()
                    .ok_or_else(|| tenant.violation(Invariant::ReactionRecorded, receipt.position))?;
                follow_ups(event, id, recorded, Some(&current))
            }
            Ok(_) => follow_ups(event, instance, reacted, None),
            Err(AppendError::VersionConflict { .. }) => {
                again.push(event);
                continue;
            }
            Err(error) => Err(unprocessable(error)?),
        };
        outcomes.push((event, outcome));
    }
    Ok(again)
}

/// The instance that a saga needs to see for an event.
async fn instance_of(
    tenant: &TenantStore,
    process: &dyn Process,
    event: &RecordedEvent,
) -> Result<Result<Option<(Uuid, Instance)>, DecodeError>, StoreError> {
    match process.route(event) {
        Ok(Some(id)) => Ok(Ok(Some((id, Instance::load(tenant, process.name(), id).await?)))),
        Ok(None) => Ok(Ok(None)),
        Err(error) => Ok(Err(error)),
    }
}

fn reacted(event: &RecordedEvent, reaction: Reaction) -> SagaReacted {
    let due = |after: Duration| {
        let after = TimeDelta::from_std(after).unwrap_or(TimeDelta::MAX);
        event.recorded_at.checked_add_signed(after).unwrap_or(DateTime::<Utc>::MAX_UTC)
    };
    let timer = |timer: Timer| SagaTimer { timer: timer.label.to_owned(), due: due(timer.after) };
    SagaReacted {
        trigger_event: event.event_id,
        trigger_position: event.position,
        trigger_type: event.event_type.clone(),
        state: reaction.state.to_owned(),
        steps: reaction.steps.iter().map(|step| saga_step(step, reaction.subject)).collect(),
        data: reaction.data.map(|data| seal_for(data, reaction.subject)),
        timers: reaction.timers.into_iter().map(timer).collect(),
        cancelled_timers: reaction.cancelled_timers.into_iter().map(ToOwned::to_owned).collect(),
    }
}

fn seal_for(value: Value, subject: Option<Uuid>) -> Value {
    match subject {
        None => value,
        Some(_) => serde_json::to_value(Sealed::of(subject, value)).expect("an id and JSON serialise"),
    }
}

fn saga_step(step: &Step, subject: Option<Uuid>) -> SagaStep {
    let json = |command: &AnyCommand| serde_json::to_value(command).expect("commands serialise");
    SagaStep {
        step: step.label.to_owned(),
        command: seal_for(json(&step.command), subject),
        compensation: step.compensation.as_ref().map(json),
    }
}

fn reaction_append(
    tenant: &TenantStore,
    process: &dyn Process,
    instance: Uuid,
    trigger: &RecordedEvent,
    reacted: &SagaReacted,
    expected: ExpectedVersion,
) -> StreamAppend {
    let command_id = reaction_id(process.name(), trigger.event_id);
    let event = NewEvent {
        event_id: None,
        event_type: SagaFact::Reacted
            .event_type(process.name())
            .expect("checked when the process was started"),
        payload: serde_json::to_vec(reacted).expect("a reaction serialises").into(),
        subject_keys: Vec::new(),
    };
    // The digest covers the trigger and not the reaction. So a repeat is recognised even if a new version of the saga
    // would react differently.
    let digest =
        tenant.store().key().mac("saga-reaction", &[process.name().as_bytes(), trigger.event_id.as_bytes()]);
    StreamAppend {
        claim: Some(IdempotencyClaim::new(command_id, digest)),
        // An event of a replaced log triggers nothing.
        log: Some(trigger.log_id),
        ..StreamAppend::new(
            instance_stream(process.name(), instance),
            expected,
            vec![event],
            metadata(process.name(), command_id, trigger.metadata.correlation_id, trigger.event_id, trigger),
        )
    }
}

fn metadata(
    process: &str,
    command_id: Uuid,
    correlation_id: Uuid,
    causation_id: Uuid,
    trigger: &RecordedEvent,
) -> Metadata {
    Metadata {
        correlation_id,
        causation_id: Some(causation_id),
        traceparent: trigger.metadata.traceparent.clone(),
        request_id: trigger.metadata.request_id.clone(),
        ..Metadata::new(actor(process), command_id)
    }
}

/// The rows that follow from a recorded reaction. If the instance has progressed since, only those that it still waits
/// for.
fn follow_ups(
    trigger: &RecordedEvent,
    instance: Uuid,
    reacted: SagaReacted,
    current: Option<&Instance>,
) -> Result<FollowUps, Unprocessable> {
    let row = |step: String, work, can_be_undone, due| NewStep {
        instance,
        step,
        trigger_event: trigger.event_id,
        correlation_id: trigger.metadata.correlation_id,
        payload: StepPayload {
            work,
            trigger_position: trigger.position,
            traceparent: trigger.metadata.traceparent.clone(),
            request_id: trigger.metadata.request_id.clone(),
            can_be_undone,
        },
        due,
    };
    let waits_for_step = |step: &str| {
        current.is_none_or(|current| current.steps.get(step).is_none_or(|state| *state == StepState::Pending))
    };
    let waits_for_timer = |timer: &str| {
        current.is_none_or(|current| matches!(current.timers.get(timer), None | Some(TimerState::Set(_))))
    };
    let mut follow_ups = FollowUps::default();
    for step in reacted.steps.into_iter().filter(|step| waits_for_step(&step.step)) {
        let work = if is_personal_data(&step.command) {
            StepAction::SendRecorded
        } else {
            let command = serde_json::from_value(step.command).map_err(|error| Unprocessable {
                code: "UNDECODABLE".to_owned(),
                message: format!("the recorded command of step {} does not read: {error}", step.step),
            })?;
            StepAction::Send { command }
        };
        follow_ups.rows.push(row(step.step, work, step.compensation.is_some(), None));
    }
    for timer in reacted.timers.into_iter().filter(|timer| waits_for_timer(&timer.timer)) {
        let due = Some(timer.due);
        follow_ups.rows.push(row(timer_label(&timer.timer), StepAction::Timer { timer }, false, due));
    }
    let label = |timer: String| (instance, timer_label(&timer));
    follow_ups.cancelled = reacted.cancelled_timers.into_iter().map(label).collect();
    Ok(follow_ups)
}

/// Maps a failed append: an outage is an error; all other failures go to the dead letters.
fn unprocessable(error: AppendError) -> Result<Unprocessable, StoreError> {
    let message = error.to_string();
    let code = match error {
        AppendError::Unavailable(cause) => return Err(cause),
        AppendError::Overloaded => return Err(StoreError::Overloaded),
        AppendError::TenantUnknown => return Err(StoreError::TenantUnknown),
        AppendError::SubjectErased => ErrorCode::SubjectErased,
        // Handled earlier; a reaction without an expected version has no conflict.
        AppendError::VersionConflict { .. } => return Err(StoreError::Unavailable(message)),
        AppendError::CommandIdReused => ErrorCode::CommandIdReused,
        AppendError::Reserved { kind, .. } => commands::reserved_value_code(&kind),
        AppendError::EventIdTaken(_) => ErrorCode::EventIdTaken,
        AppendError::TooLarge { .. } => ErrorCode::TooLarge,
        AppendError::Invalid(_) => ErrorCode::Invalid,
    };
    Ok(Unprocessable { code: code.graphql(), message })
}

/// The dead letter of an event whose reaction failed. Its id is derived from the event, so it is written once.
fn dead_letter(
    tenant: TenantId,
    consumer: &str,
    process: &str,
    event: &RecordedEvent,
    unprocessable: Unprocessable,
) -> DeadLetter {
    let now = clock::now();
    let failure = rows::StepFailure::new(now, &unprocessable.code, unprocessable.message.clone());
    DeadLetter {
        id: ids::derived_id(reaction_id(process, event.event_id), "dead_letter"),
        tenant,
        consumer: consumer.to_owned(),
        position: event.position,
        event_id: Some(event.event_id),
        subject: event.event_type.to_string(),
        error_code: unprocessable.code.clone(),
        error: unprocessable.message,
        attempts: 1,
        history: serde_json::json!([failure]),
        status: DeadLetterStatus::Open,
        first_at: now,
        last_at: now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_an_error_and_a_refusal_is_for_the_dead_letters() {
        assert!(matches!(unprocessable(AppendError::Overloaded), Err(StoreError::Overloaded)));
        let away = AppendError::Unavailable(StoreError::Unavailable("gone".to_owned()));
        assert!(matches!(unprocessable(away), Err(StoreError::Unavailable(text)) if text == "gone"));
        let large = unprocessable(AppendError::TooLarge { bytes: 2, limit: 1 });
        assert_eq!(large.expect("unfit").code, "TOO_LARGE");
    }
}
