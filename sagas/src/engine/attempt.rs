//! One try of one step: what its row says is done, and what that came to.

use access::Principal;
use commands::{AnyCommand, CommandContext, DispatchError, dispatch};
use schemas::engine::TenantId;
use schemas::saga::{SagaStep, SagaTimer};
use store::{Causes, Claim, KeyUse, LogFilter, StoreError};

use super::instance::{Instance, TimerState};
use super::process::command_id;
use super::react::{Wanted, react_all};
use super::rows::{NewRow, StepRow, Task, Work};
use super::steps::Steps;

/// What became of a step in hand.
pub(super) enum Outcome {
    /// Its command took effect, now or before; or nothing was to be done.
    Done(Wanted),
    /// Its time has come, in the instance as it is at this version.
    Fires(SagaTimer, u64),
    /// It is wanted no more, and the log says so already.
    Obsolete,
    /// It was refused to the last, and its instance takes back what it has done.
    GivenUp {
        code: String,
        undo: Vec<SagaStep>,
        /// The row of the first of them.
        rows: Vec<NewRow>,
        /// The instance as it was seen; `None` where this was recorded before.
        version: Option<u64>,
    },
    Refused {
        code: String,
        message: String,
    },
    Outage(String),
}

impl Steps {
    pub(super) async fn attempt(&self, tenant: TenantId, row: &StepRow) -> Outcome {
        let _permit = match self.permits.acquire(tenant).await {
            Ok(permit) => permit,
            Err(error) => return Outcome::Outage(error.to_string()),
        };
        let tried = match &row.task.work {
            Work::Send { command } => self.send_or_give_up(tenant, row, command).await,
            Work::SendRecorded => self.send_recorded(tenant, row).await,
            Work::React => self.react_again(tenant, row).await,
            Work::Timer { timer } => self.fire(tenant, row, timer).await,
            Work::Undo { command, then } => Ok(match self.send(tenant, row, command).await {
                Outcome::Done(_) => done(row, then),
                other => other,
            }),
            Work::Discard { work, .. } => Ok(match work.as_ref() {
                // What was to be taken back behind it is taken back all the same.
                Work::Undo { then, .. } => done(row, then),
                _ => Outcome::Done(Wanted::default()),
            }),
        };
        tried.unwrap_or_else(|error| Outcome::Outage(Causes(&error).to_string()))
    }

    async fn send(&self, tenant: TenantId, row: &StepRow, command: &AnyCommand) -> Outcome {
        let context = CommandContext {
            command_id: Some(command_id(self.saga(), row.instance, &row.step)),
            correlation_id: Some(row.correlation_id),
            causation_id: Some(row.trigger_event),
            traceparent: row.task.traceparent.clone(),
            request_id: row.task.request_id.clone(),
            ..CommandContext::new(tenant, Principal::saga(self.saga()))
        };
        match dispatch(&self.executor, &context, command.clone()).await {
            Ok(_) => Outcome::Done(Wanted::default()),
            Err(DispatchError::Rejected { code, message }) => {
                Outcome::Refused { code: code.graphql(), message }
            }
            Err(DispatchError::Retryable(cause)) => Outcome::Outage(cause.to_string()),
        }
    }

    /// Sends a step; the last refusal makes an instance that can do so take back what it has done.
    async fn send_or_give_up(
        &self,
        tenant: TenantId,
        row: &StepRow,
        command: &AnyCommand,
    ) -> Result<Outcome, StoreError> {
        let last = row.attempts + 1 >= self.settings.retry.max_attempts;
        // A crash may have come between the decision to give up and the rows. What is decided is not decided anew.
        if last
            && let Some(undo) = self.instance(tenant, row).await?.undone_for(&row.step)
            && let Some(rows) = undo_rows(row, undo)
        {
            return Ok(Outcome::GivenUp { code: String::new(), undo: undo.to_vec(), rows, version: None });
        }
        let outcome = self.send(tenant, row, command).await;
        let Outcome::Refused { code, .. } = &outcome else { return Ok(outcome) };
        if last {
            let instance = self.instance(tenant, row).await?;
            let undo = instance.undo_all();
            if instance.can_compensate()
                && let Some(rows) = undo_rows(row, &undo)
            {
                let version = Some(instance.version);
                return Ok(Outcome::GivenUp { code: code.clone(), undo, rows, version });
            }
        }
        Ok(outcome)
    }

    async fn send_recorded(&self, tenant: TenantId, row: &StepRow) -> Result<Outcome, StoreError> {
        let recorded = self.instance(tenant, row).await?.command(row.trigger_event, &row.step);
        let Some(recorded) = recorded else {
            // The command may have taken effect before its outcome was recorded, and the person may be erased since.
            let key = command_id(self.saga(), row.instance, &row.step);
            if self.tenant(tenant).key_use(&Claim::new(key, [0; 32])).await? != KeyUse::Unused {
                return Ok(Outcome::Done(Wanted::default()));
            }
            let message = "the person that the command is about was erased".to_owned();
            return Ok(Outcome::Refused { code: "SUBJECT_ERASED".to_owned(), message });
        };
        match serde_json::from_value(recorded) {
            Ok(command) => self.send_or_give_up(tenant, row, &command).await,
            Err(error) => {
                let message = format!("the recorded command does not read: {error}");
                Ok(Outcome::Refused { code: "UNDECODABLE".to_owned(), message })
            }
        }
    }

    async fn fire(&self, tenant: TenantId, row: &StepRow, timer: &SagaTimer) -> Result<Outcome, StoreError> {
        let instance = self.instance(tenant, row).await?;
        Ok(match instance.timers.get(&timer.timer) {
            Some(TimerState::Set(_)) => Outcome::Fires(timer.clone(), instance.version),
            Some(TimerState::Fired | TimerState::Cancelled) | None => Outcome::Obsolete,
        })
    }

    async fn react_again(&self, tenant: TenantId, row: &StepRow) -> Result<Outcome, StoreError> {
        let tenant = self.tenant(tenant);
        let position = row.task.trigger_position;
        let page = tenant
            .read_log_page(position.saturating_sub(1), Some(position), 1, &LogFilter::default())
            .await?;
        let events = tenant.open(page.events).await?;
        let mut outcomes = react_all(&tenant, self.process.as_ref(), &events).await?;
        Ok(match outcomes.pop() {
            Some((_, Ok(wanted))) => Outcome::Done(wanted),
            Some((_, Err(unfit))) => Outcome::Refused { code: unfit.code.clone(), message: unfit.message },
            None => Outcome::Done(Wanted::default()),
        })
    }

    pub(super) async fn instance(&self, tenant: TenantId, row: &StepRow) -> Result<Instance, StoreError> {
        Instance::load(&self.tenant(tenant), self.saga(), row.instance).await
    }
}

/// Done, and the next of what is to be taken back.
fn done(row: &StepRow, then: &[(String, AnyCommand)]) -> Outcome {
    Outcome::Done(Wanted { rows: undo_row(row, then).into_iter().collect(), ..Wanted::default() })
}

/// The row that takes steps back, one after the other. `None` where a command does not read.
pub(super) fn undo_rows(row: &StepRow, undo: &[SagaStep]) -> Option<Vec<NewRow>> {
    let commands: Result<Vec<_>, serde_json::Error> = undo
        .iter()
        .map(|step| Ok((step.step.clone(), serde_json::from_value(step.command.clone())?)))
        .collect();
    Some(undo_row(row, &commands.ok()?).into_iter().collect())
}

fn undo_row(row: &StepRow, undo: &[(String, AnyCommand)]) -> Option<NewRow> {
    let ((label, command), then) = undo.split_first()?;
    let work = Work::Undo { command: command.clone(), then: then.to_vec() };
    Some(NewRow {
        instance: row.instance,
        step: label.clone(),
        trigger_event: row.trigger_event,
        correlation_id: row.correlation_id,
        task: Task {
            work,
            trigger_position: row.task.trigger_position,
            traceparent: row.task.traceparent.clone(),
            request_id: row.task.request_id.clone(),
            can_be_undone: false,
        },
        due: None,
    })
}
