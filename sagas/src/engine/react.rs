//! Reactions: appended to the instances' streams first, then, with the checkpoint, turned into rows of steps.

use std::sync::Arc;

use commands::AnyCommand;
use futures::TryStreamExt;
use schemas::engine::{LogId, Metadata, RecordedEvent, TenantId, clock, ids};
use schemas::saga::{SagaFact, SagaReacted, SagaStep, instance_stream};
use store::feed::{Batch, Consumer, Handled};
use store::{
    AppendError, Claim, DeadLetter, DeadLetterStatus, ExpectedVersion, NewEvent, Receipt, Store, StoreError,
    StreamAppend, TenantStore, TenantTransaction,
};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::process::{Process, Trigger, actor, consumer_name, reaction_id};
use super::rows::{self, NewRow, Task, Work};

/// Reacts to a tenant's events, batch by batch.
pub(super) struct Reactor {
    store: Store,
    process: Arc<dyn Process>,
    consumer: String,
    /// Tells the step runner whose steps are new; a lost hint costs one poll.
    hints: mpsc::Sender<TenantId>,
}

/// A reaction that could not be recorded, and never can be as things stand.
pub(super) struct Unfit {
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Reactor {
    pub(super) fn new(store: Store, process: Arc<dyn Process>, hints: mpsc::Sender<TenantId>) -> Self {
        let consumer = consumer_name(process.name());
        Self { store, process, consumer, hints }
    }
}

impl Consumer for Reactor {
    fn name(&self) -> &str {
        &self.consumer
    }

    async fn handle(&self, from: u64, batch: Batch) -> Result<Handled, StoreError> {
        let tenant = self.store.tenant(batch.tenant);
        let Some(to) = batch.events.last().map(|event| event.position) else {
            return Ok(Handled::Moved(from));
        };
        let mut steps = Vec::new();
        let mut letters = Vec::new();
        for (event, outcome) in react_all(&tenant, self.process.as_ref(), &batch.events).await? {
            match outcome {
                Ok(wanted) => steps.extend(wanted),
                Err(unfit) => {
                    letters.push(letter(batch.tenant, &self.consumer, self.process.name(), event, unfit));
                }
            }
        }
        let transaction = tenant.begin_projection().await?;
        rows::insert(&transaction, self.process.name(), &steps, clock::now()).await?;
        for letter in &letters {
            tracing::warn!(saga = self.process.name(), tenant = %batch.tenant, position = letter.position,
                code = letter.error_code, "a saga cannot react to an event; it stands in the dead letters");
            transaction.put_dead_letter(letter).await?;
        }
        if !transaction.move_checkpoint(&self.consumer, batch.log_id, from, to).await? {
            return self.lost(&transaction, batch.log_id).await;
        }
        transaction.commit().await?;
        if !steps.is_empty() {
            // Where the channel is full the step runner looks for itself soon.
            let _ = self.hints.try_send(batch.tenant);
        }
        Ok(Handled::Moved(to))
    }
}

impl Reactor {
    /// The checkpoint was not where it should be: somebody else moved it, or it belongs to a log that is no more.
    async fn lost(&self, transaction: &TenantTransaction, log_id: LogId) -> Result<Handled, StoreError> {
        match transaction.checkpoint(&self.consumer).await? {
            Some(checkpoint) if checkpoint.log_id != log_id => {
                tracing::error!(consumer = self.consumer, tenant = %transaction.tenant(), %log_id,
                    of = %checkpoint.log_id, "the saga has followed another log of this tenant; it stops here");
                Ok(Handled::Stopped)
            }
            _ => Ok(Handled::Lost),
        }
    }
}

/// Reacts to events and records the reactions, all at once, so that they share a commit. The steps come from what is
/// recorded: where a reaction stood already, it counts and not the one computed now.
pub(super) async fn react_all<'a>(
    tenant: &TenantStore,
    process: &dyn Process,
    events: &'a [RecordedEvent],
) -> Result<Vec<(&'a RecordedEvent, Result<Vec<NewRow>, Unfit>)>, StoreError> {
    let mut outcomes = Vec::new();
    let mut reactions = Vec::new();
    let mut appends = Vec::new();
    for event in events {
        match process.react(Trigger { tenant: tenant.id(), event }) {
            Ok(None) => {}
            Ok(Some(reaction)) => {
                let reacted = SagaReacted {
                    trigger_event: event.event_id,
                    trigger_position: event.position,
                    trigger_type: event.event_type.clone(),
                    state: reaction.state.to_owned(),
                    steps: reaction.steps.iter().map(|step| saga_step(step.label, &step.command)).collect(),
                };
                appends.push(append_of(tenant, process, reaction.instance, event, &reacted));
                reactions.push((event, reaction.instance, reacted));
            }
            Err(error) => {
                let message = format!("{error}: {}", error.source);
                outcomes.push((event, Err(Unfit { code: "UNDECODABLE", message })));
            }
        }
    }
    let receipts = tenant.append_all(appends).await;
    for ((event, instance, reacted), receipt) in reactions.into_iter().zip(receipts) {
        let outcome = match receipt {
            Ok(receipt) if receipt.duplicate => {
                let (instance, recorded) = recorded(tenant, &receipt).await?;
                rows_of(event, instance, recorded)
            }
            Ok(_) => rows_of(event, instance, reacted),
            Err(error) => Err(unfit(error)?),
        };
        outcomes.push((event, outcome));
    }
    Ok(outcomes)
}

fn saga_step(label: &str, command: &AnyCommand) -> SagaStep {
    let command = serde_json::to_value(command).expect("commands serialise");
    SagaStep { step: label.to_owned(), command }
}

fn append_of(
    tenant: &TenantStore,
    process: &dyn Process,
    instance: Uuid,
    trigger: &RecordedEvent,
    reacted: &SagaReacted,
) -> StreamAppend {
    let command_id = reaction_id(process.name(), trigger.event_id);
    let event = NewEvent {
        event_type: SagaFact::Reacted
            .event_type(process.name())
            .expect("checked when the process was started"),
        payload: serde_json::to_vec(reacted).expect("a reaction serialises").into(),
        subject_keys: Vec::new(),
    };
    // The digest covers the cause and not the reaction: a repeat that would react otherwise, because the process has
    // changed meanwhile, is a repeat all the same.
    let digest =
        tenant.store().key().mac("saga-reaction", &[process.name().as_bytes(), trigger.event_id.as_bytes()]);
    StreamAppend {
        claim: Some(Claim { command_id, digest }),
        ..StreamAppend::new(
            instance_stream(process.name(), instance),
            ExpectedVersion::Any,
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
        ..Metadata::new(actor(process), command_id)
    }
}

/// The reaction that a receipt stands for.
async fn recorded(tenant: &TenantStore, receipt: &Receipt) -> Result<(Uuid, SagaReacted), StoreError> {
    let corrupt = |what: String| {
        StoreError::Corrupt(format!("{} at version {}: {what}", receipt.stream, receipt.version))
    };
    let mut stream = Box::pin(tenant.read_stream(&receipt.stream, receipt.version));
    let event = stream.try_next().await?.ok_or_else(|| corrupt("missing".to_owned()))?;
    let instance = receipt.stream.uuid().ok_or_else(|| corrupt("not an instance".to_owned()))?;
    let reacted = serde_json::from_slice(&event.payload).map_err(|error| corrupt(error.to_string()))?;
    Ok((instance, reacted))
}

fn rows_of(trigger: &RecordedEvent, instance: Uuid, reacted: SagaReacted) -> Result<Vec<NewRow>, Unfit> {
    let row = |step: SagaStep| {
        let command = serde_json::from_value(step.command).map_err(|error| Unfit {
            code: "UNDECODABLE",
            message: format!("the recorded command of step {} does not read: {error}", step.step),
        })?;
        Ok(NewRow {
            instance,
            step: step.step,
            trigger_event: trigger.event_id,
            correlation_id: trigger.metadata.correlation_id,
            task: Task {
                work: Work::Send { command },
                trigger_position: trigger.position,
                traceparent: trigger.metadata.traceparent.clone(),
            },
        })
    };
    reacted.steps.into_iter().map(row).collect()
}

/// What the refusal of an append means: an outage is an error, anything else is for the dead letters.
fn unfit(error: AppendError) -> Result<Unfit, StoreError> {
    let message = error.to_string();
    let code = match error {
        AppendError::Unavailable(cause) => return Err(cause),
        AppendError::Overloaded => return Err(StoreError::Overloaded),
        AppendError::TenantUnknown => return Err(StoreError::TenantUnknown),
        // Reactions expect no version, so this is no answer of the log's.
        AppendError::VersionConflict { .. } => return Err(StoreError::Unavailable(message)),
        AppendError::CommandIdReused => "COMMAND_ID_REUSED",
        AppendError::Reserved { .. } => "TAKEN",
        AppendError::TooLarge { .. } => "TOO_LARGE",
        AppendError::Invalid(_) => "INVALID",
    };
    Ok(Unfit { code, message })
}

/// The dead letter of an event that could not be reacted to. Its id derives from the event, so it is written once.
fn letter(
    tenant: TenantId,
    consumer: &str,
    process: &str,
    event: &RecordedEvent,
    unfit: Unfit,
) -> DeadLetter {
    let now = clock::now();
    let refusal = rows::Refusal::new(now, unfit.code, unfit.message.clone());
    DeadLetter {
        id: ids::derived_id(reaction_id(process, event.event_id), "dead_letter"),
        tenant,
        consumer: consumer.to_owned(),
        position: event.position,
        event_id: Some(event.event_id),
        subject: event.event_type.to_string(),
        error_code: unfit.code.to_owned(),
        error: unfit.message,
        attempts: 1,
        history: serde_json::json!([refusal]),
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
        assert!(matches!(unfit(AppendError::Overloaded), Err(StoreError::Overloaded)));
        let away = AppendError::Unavailable(StoreError::Unavailable("gone".to_owned()));
        assert!(matches!(unfit(away), Err(StoreError::Unavailable(text)) if text == "gone"));
        let large = unfit(AppendError::TooLarge { bytes: 2, limit: 1 });
        assert!(matches!(large, Ok(Unfit { code: "TOO_LARGE", .. })));
    }
}
