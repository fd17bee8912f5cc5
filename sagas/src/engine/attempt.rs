//! One attempt of one step: does what its row says and returns the outcome.

use access::Principal;
use commands::{AnyCommand, CommandContext, DispatchError, dispatch};
use schemas::engine::TenantId;
use schemas::saga::{SagaStep, SagaTimer};
use store::{Causes, IdempotencyClaim, Invariant, KeyUse, LogFilter, StoreError};

use super::instance::{Instance, TimerState};
use super::process::command_id;
use super::react::{FollowUps, react_all};
use super::rows::{NewStep, StepAction, StepPayload, StepRow};
use super::step_runner::StepRunner;

/// Outcome of a claimed step.
pub(super) enum AttemptOutcome {
    /// The command took effect, now or earlier; or there was nothing to do.
    Completed(FollowUps),
    /// The timer is due. The number is the version of the instance that was read.
    TimerDue(SagaTimer, u64),
    /// The step is not wanted any more, and the log already says so.
    Superseded,
    /// The step was rejected in its last attempt, and the instance compensates its completed steps.
    RetriesExhausted {
        code: String,
        compensations: Vec<SagaStep>,
        /// The row of the first compensation.
        rows: Vec<NewStep>,
        /// The version of the instance that was read; `None` if the start of the compensation was recorded earlier.
        version: Option<u64>,
    },
    RejectedStep {
        code: String,
        message: String,
    },
    Unavailable(String),
}

impl StepRunner {
    /// Does what a row says.
    ///
    /// # Errors
    /// Data of the tenant break a rule that always holds. All other failures are outcomes.
    pub(super) async fn attempt(
        &self,
        tenant: TenantId,
        row: &StepRow,
    ) -> Result<AttemptOutcome, StoreError> {
        let _permit = match self.permits.acquire(tenant).await {
            Ok(permit) => permit,
            Err(error) => return Ok(AttemptOutcome::Unavailable(error.to_string())),
        };
        let attempted = match &row.payload.work {
            StepAction::Send { command } => self.send_or_compensate(tenant, row, command).await,
            StepAction::SendRecorded => self.send_recorded(tenant, row).await,
            StepAction::React => self.react_again(tenant, row).await,
            StepAction::Timer { timer } => self.fire(tenant, row, timer).await,
            StepAction::Undo { command, then } => Ok(match self.send(tenant, row, command).await {
                AttemptOutcome::Completed(_) => completed(row, then),
                other => other,
            }),
            StepAction::Discard { work, .. } => Ok(match work.as_ref() {
                // The later compensations are still sent.
                StepAction::Undo { then, .. } => completed(row, then),
                _ => AttemptOutcome::Completed(FollowUps::default()),
            }),
        };
        match attempted {
            Err(error) if !error.is_violation() => {
                Ok(AttemptOutcome::Unavailable(Causes(&error).to_string()))
            }
            attempted => attempted,
        }
    }

    async fn send(&self, tenant: TenantId, row: &StepRow, command: &AnyCommand) -> AttemptOutcome {
        let context = CommandContext {
            command_id: Some(command_id(self.saga(), row.instance, &row.step)),
            correlation_id: Some(row.correlation_id),
            causation_id: Some(row.trigger_event),
            traceparent: row.payload.traceparent.clone(),
            request_id: row.payload.request_id.clone(),
            ..CommandContext::new(tenant, Principal::saga(self.saga()))
        };
        match dispatch(&self.executor, &context, command.clone()).await {
            Ok(_) => AttemptOutcome::Completed(FollowUps::default()),
            Err(DispatchError::Rejected { code, message, .. }) => {
                AttemptOutcome::RejectedStep { code: code.graphql(), message }
            }
            Err(DispatchError::Retryable(cause)) => AttemptOutcome::Unavailable(cause.to_string()),
        }
    }

    /// Sends a step. If its last attempt is rejected, an instance with compensations starts to compensate.
    async fn send_or_compensate(
        &self,
        tenant: TenantId,
        row: &StepRow,
        command: &AnyCommand,
    ) -> Result<AttemptOutcome, StoreError> {
        let last = row.attempts + 1 >= self.settings.retry.max_attempts;
        // A crash may have come after the decision to compensate and before the rows were written. The recorded
        // decision is used again.
        if last
            && let Some(compensations) = self.instance(tenant, row).await?.compensations_for(&row.step)
            && let Some(rows) = compensation_rows(row, compensations)
        {
            return Ok(AttemptOutcome::RetriesExhausted {
                code: String::new(),
                compensations: compensations.to_vec(),
                rows,
                version: None,
            });
        }
        let outcome = self.send(tenant, row, command).await;
        let AttemptOutcome::RejectedStep { code, .. } = &outcome else { return Ok(outcome) };
        if last {
            let instance = self.instance(tenant, row).await?;
            let compensations = instance.all_compensations();
            if instance.can_compensate()
                && let Some(rows) = compensation_rows(row, &compensations)
            {
                let version = Some(instance.version);
                return Ok(AttemptOutcome::RetriesExhausted {
                    code: code.clone(),
                    compensations,
                    rows,
                    version,
                });
            }
        }
        Ok(outcome)
    }

    async fn send_recorded(&self, tenant: TenantId, row: &StepRow) -> Result<AttemptOutcome, StoreError> {
        let instance = self.instance(tenant, row).await?;
        let broken = match instance.has_step(row.trigger_event, &row.step) {
            Some(true) => None,
            Some(false) => Some(Invariant::StepCommandId),
            None => Some(Invariant::ReactionRecorded),
        };
        if let Some(invariant) = broken {
            return Err(self.tenant(tenant).violation(invariant, row.payload.trigger_position));
        }
        let recorded = instance.command(row.trigger_event, &row.step);
        let Some(recorded) = recorded else {
            // The command may have taken effect before its outcome was recorded, and the subject may have been erased
            // since.
            let key = command_id(self.saga(), row.instance, &row.step);
            if self.tenant(tenant).key_use(&IdempotencyClaim::new(key, [0; 32])).await? != KeyUse::Unused {
                return Ok(AttemptOutcome::Completed(FollowUps::default()));
            }
            let message = "the person that the command is about was erased".to_owned();
            return Ok(AttemptOutcome::RejectedStep { code: "SUBJECT_ERASED".to_owned(), message });
        };
        match serde_json::from_value(recorded) {
            Ok(command) => self.send_or_compensate(tenant, row, &command).await,
            Err(error) => {
                let message = format!("the recorded command does not read: {error}");
                Ok(AttemptOutcome::RejectedStep { code: "UNDECODABLE".to_owned(), message })
            }
        }
    }

    async fn fire(
        &self,
        tenant: TenantId,
        row: &StepRow,
        timer: &SagaTimer,
    ) -> Result<AttemptOutcome, StoreError> {
        let instance = self.instance(tenant, row).await?;
        Ok(match instance.timers.get(&timer.timer) {
            Some(TimerState::Set(_)) => AttemptOutcome::TimerDue(timer.clone(), instance.version),
            Some(TimerState::Fired | TimerState::Cancelled) | None => AttemptOutcome::Superseded,
        })
    }

    async fn react_again(&self, tenant: TenantId, row: &StepRow) -> Result<AttemptOutcome, StoreError> {
        let tenant = self.tenant(tenant);
        let position = row.payload.trigger_position;
        let page = tenant
            .read_log_page(position.saturating_sub(1), Some(position), 1, &LogFilter::default())
            .await?;
        let events = tenant.open(page.events).await?;
        let mut outcomes = react_all(&tenant, self.process.as_ref(), &events).await?;
        Ok(match outcomes.pop() {
            Some((_, Ok(follow_ups))) => AttemptOutcome::Completed(follow_ups),
            Some((_, Err(unprocessable))) => AttemptOutcome::RejectedStep {
                code: unprocessable.code.clone(),
                message: unprocessable.message,
            },
            None => AttemptOutcome::Completed(FollowUps::default()),
        })
    }

    pub(super) async fn instance(&self, tenant: TenantId, row: &StepRow) -> Result<Instance, StoreError> {
        Instance::load(&self.tenant(tenant), self.saga(), row.instance).await
    }
}

/// The outcome of a completed compensation: the next one follows.
fn completed(row: &StepRow, then: &[(String, AnyCommand)]) -> AttemptOutcome {
    AttemptOutcome::Completed(FollowUps {
        rows: compensation_row(row, then).into_iter().collect(),
        ..FollowUps::default()
    })
}

/// The row that sends the compensations one after the other. `None` if a command cannot be parsed.
pub(super) fn compensation_rows(row: &StepRow, compensations: &[SagaStep]) -> Option<Vec<NewStep>> {
    let commands: Result<Vec<_>, serde_json::Error> = compensations
        .iter()
        .map(|step| Ok((step.step.clone(), serde_json::from_value(step.command.clone())?)))
        .collect();
    Some(compensation_row(row, &commands.ok()?).into_iter().collect())
}

fn compensation_row(row: &StepRow, compensations: &[(String, AnyCommand)]) -> Option<NewStep> {
    let ((label, command), then) = compensations.split_first()?;
    let work = StepAction::Undo { command: command.clone(), then: then.to_vec() };
    Some(NewStep {
        instance: row.instance,
        step: label.clone(),
        trigger_event: row.trigger_event,
        correlation_id: row.correlation_id,
        payload: StepPayload {
            work,
            trigger_position: row.payload.trigger_position,
            traceparent: row.payload.traceparent.clone(),
            request_id: row.payload.request_id.clone(),
            can_be_undone: false,
        },
        due: None,
    })
}
