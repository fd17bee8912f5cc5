//! The rows of `saga_steps`: what is still to do. They follow from the reactions in the log. A row is deleted when its
//! step has taken effect.

use std::time::Duration;

use chrono::{DateTime, Utc};
use commands::AnyCommand;
use schemas::engine::RequestId;
use schemas::engine::recorded::timestamp;
use schemas::saga::SagaTimer;
use serde::{Deserialize, Serialize};
use store::sql::Row;
use store::{StoreError, TenantTransaction};
use uuid::Uuid;

use super::process::TIMER_PREFIX;

/// Maximum rejections that a row stores; older ones are dropped.
const FAILURE_HISTORY_MAX: usize = 100;

/// The work of a step, as its row stores it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StepAction {
    /// Sends a command.
    Send { command: AnyCommand },
    /// Sends the command that the reaction recorded. It contains personal data, which rows must not contain.
    SendRecorded,
    /// Retries the reaction to the trigger, which failed.
    React,
    /// Records that a timer has fired.
    Timer { timer: SagaTimer },
    /// Sends a compensation, and then others.
    Undo { command: AnyCommand, then: Vec<(String, AnyCommand)> },
    /// Records that an operator discarded this work.
    Discard { work: Box<StepAction>, dead_letter: Uuid },
}

/// The `payload` column of a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StepPayload {
    pub(super) work: StepAction,
    pub(super) trigger_position: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) traceparent: Option<String>,
    /// The request that led to the trigger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) request_id: Option<RequestId>,
    /// Whether the step has a compensation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) can_be_undone: bool,
}

/// A step to insert.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NewStep {
    pub(super) instance: Uuid,
    pub(super) step: String,
    pub(super) trigger_event: Uuid,
    pub(super) correlation_id: Uuid,
    pub(super) payload: StepPayload,
    /// `None` means due at once.
    pub(super) due: Option<DateTime<Utc>>,
}

/// A claimed step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StepRow {
    pub(super) instance: Uuid,
    pub(super) step: String,
    pub(super) trigger_event: Uuid,
    pub(super) correlation_id: Uuid,
    pub(super) payload: StepPayload,
    pub(super) attempts: u32,
    pub(super) history: Vec<StepFailure>,
    pub(super) dead_letter_id: Option<Uuid>,
}

/// One rejection of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StepFailure {
    pub(super) at: String,
    pub(super) code: String,
    pub(super) message: String,
}

impl StepFailure {
    pub(super) fn new(at: DateTime<Utc>, code: &str, message: String) -> Self {
        Self { at: timestamp(at), code: code.to_owned(), message }
    }
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("rows are made of strings, numbers and commands, which serialise")
}

fn read<T: for<'a> Deserialize<'a>>(text: &str, what: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt(format!("saga step, {what}: {error}")))
}

/// Inserts steps that do not exist yet. Steps without a due time are due at `now`.
pub(super) async fn insert(
    transaction: &TenantTransaction,
    saga: &str,
    rows: &[NewStep],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let instances: Vec<Uuid> = rows.iter().map(|row| row.instance).collect();
    let steps: Vec<&str> = rows.iter().map(|row| row.step.as_str()).collect();
    let triggers: Vec<Uuid> = rows.iter().map(|row| row.trigger_event).collect();
    let correlations: Vec<Uuid> = rows.iter().map(|row| row.correlation_id).collect();
    let tasks: Vec<String> = rows.iter().map(|row| json(&row.payload)).collect();
    let due: Vec<DateTime<Utc>> = rows.iter().map(|row| row.due.unwrap_or(now)).collect();
    transaction
        .execute_named(
            "insert into saga_steps (tenant_id, saga, instance, step, trigger_event, correlation_id, command, attempts,
                                     next_attempt_at, status, history)
             select :tenant_id, :saga, n.instance, n.step, n.trigger_event, n.correlation_id, n.command, 0, n.due, 'pending', '[]'
             from unnest(:instances::uuid[], :steps::text[], :triggers::uuid[], :correlations::uuid[], :payloads::text[], :due::timestamptz[])
                 as n(instance, step, trigger_event, correlation_id, command, due)
             on conflict do nothing",
            &[("tenant_id", &transaction.tenant().0), ("saga", &saga), ("instances", &instances), ("steps", &steps), ("triggers", &triggers), ("correlations", &correlations), ("payloads", &tasks), ("due", &due)],
        )
        .await?;
    Ok(())
}

// The statements reach sets of rows by their physical location (ctid), which an index finds row by row.
// Otherwise the planner, whose statistics say that the table is empty, joins all steps of the tenant with each wanted
// one.

/// Claims due steps. Until the lease expires, other workers do not see them as due.
pub(super) async fn claim(
    transaction: &TenantTransaction,
    saga: &str,
    now: DateTime<Utc>,
    lease: Duration,
    limit: usize,
) -> Result<Vec<StepRow>, StoreError> {
    let rows = transaction
        .query(
            "update saga_steps set next_attempt_at = $4
             where tenant_id = $1 and ctid = any (array(
                 select ctid from saga_steps
                 where tenant_id = $1 and saga = $2 and status = 'pending' and next_attempt_at <= $3
                 order by next_attempt_at limit $5 for update skip locked))
             returning instance, step, trigger_event, correlation_id, command, attempts, history, dead_letter_id",
            &[&transaction.tenant().0, &saga, &now, &(now + lease), &(limit as i64)],
        )
        .await?;
    rows.iter().map(row_from).collect()
}

fn row_from(row: &Row) -> Result<StepRow, StoreError> {
    Ok(StepRow {
        instance: row.get(0),
        step: row.get(1),
        trigger_event: row.get(2),
        correlation_id: row.get(3),
        payload: read(row.get(4), "command")?,
        attempts: row.get::<_, i32>(5) as u32,
        history: read(row.get(6), "history")?,
        dead_letter_id: row.get(7),
    })
}

/// A row as operators see it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PendingStep {
    pub(super) saga: String,
    pub(super) instance: Uuid,
    pub(super) step: String,
    pub(super) attempts: u32,
    pub(super) next_attempt_at: DateTime<Utc>,
    pub(super) is_dead: bool,
    pub(super) last_error: Option<String>,
    pub(super) dead_letter_id: Option<Uuid>,
}

impl PendingStep {
    pub(super) fn is_timer(&self) -> bool {
        self.step.starts_with(TIMER_PREFIX)
    }
}

/// The rows of these instances, of all sagas.
pub(super) async fn pending_steps(
    transaction: &TenantTransaction,
    instances: &[Uuid],
) -> Result<Vec<PendingStep>, StoreError> {
    let sql = "select saga, instance, step, attempts, next_attempt_at, status = 'dead', last_error, dead_letter_id
               from saga_steps where tenant_id = $1 and instance = any($2) order by saga, instance, next_attempt_at";
    let rows = transaction.query(sql, &[&transaction.tenant().0, &instances]).await?;
    let pending_steps = |row: &Row| PendingStep {
        saga: row.get(0),
        instance: row.get(1),
        step: row.get(2),
        attempts: row.get::<_, i32>(3) as u32,
        next_attempt_at: row.get(4),
        is_dead: row.get(5),
        last_error: row.get(6),
        dead_letter_id: row.get(7),
    };
    Ok(rows.iter().map(pending_steps).collect())
}

/// Deletes completed steps and cancelled timers.
pub(super) async fn delete(
    transaction: &TenantTransaction,
    saga: &str,
    rows: &[(Uuid, &str)],
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let (instances, steps): (Vec<Uuid>, Vec<&str>) = rows.iter().copied().unzip();
    transaction
        .execute(
            "delete from saga_steps
             where tenant_id = $1 and ctid = any (array(
                 select s.ctid from unnest($3::uuid[], $4::text[]) as done(instance, step)
                 cross join lateral (
                     select ctid from saga_steps
                     where tenant_id = $1 and saga = $2 and instance = done.instance and step = done.step
                     offset 0) s))",
            &[&transaction.tenant().0, &saga, &instances, &steps],
        )
        .await?;
    Ok(())
}

/// Records a rejection. `dead` is the dead letter if it was the last attempt. Returns `false` if the row changed
/// meanwhile.
pub(super) async fn record_rejection(
    transaction: &TenantTransaction,
    saga: &str,
    row: &StepRow,
    rejected: &RejectedStep,
) -> Result<bool, StoreError> {
    let changed = transaction
        .execute_named(
            "update saga_steps set attempts = :attempts, next_attempt_at = :next_attempt_at, status = :status, last_error = :last_error, history = :history,
                                   dead_letter_id = coalesce(:dead_letter, dead_letter_id)
             where tenant_id = :tenant_id and saga = :saga and instance = :instance and step = :step and attempts = :attempts_before
               and status = 'pending'",
            &[("tenant_id", &transaction.tenant().0), ("saga", &saga), ("instance", &row.instance), ("step", &row.step), ("attempts_before", &(row.attempts as i32)), ("attempts", &(rejected.attempts as i32)), ("next_attempt_at", &rejected.next_attempt_at), ("status", &if rejected.dead_letter.is_some() { "dead" } else { "pending" }), ("last_error", &rejected.history.last().map(|failure| failure.code.clone())), ("history", &json(&rejected.history)), ("dead_letter", &rejected.dead_letter)],
        )
        .await?;
    Ok(changed == 1)
}

/// A row after a rejection.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RejectedStep {
    pub(super) attempts: u32,
    pub(super) history: Vec<StepFailure>,
    pub(super) next_attempt_at: DateTime<Utc>,
    pub(super) dead_letter: Option<Uuid>,
}

impl StepRow {
    /// The history with one more rejection.
    pub(super) fn failures_with(&self, failure: StepFailure) -> Vec<StepFailure> {
        let mut history = self.history.clone();
        history.push(failure);
        let surplus = history.len().saturating_sub(FAILURE_HISTORY_MAX);
        history.drain(..surplus);
        history
    }
}

/// Postpones a step after an outage; no attempt is counted.
pub(super) async fn defer(
    transaction: &TenantTransaction,
    saga: &str,
    row: &StepRow,
    until: DateTime<Utc>,
) -> Result<(), StoreError> {
    transaction
        .execute(
            "update saga_steps set next_attempt_at = $5, last_error = 'UNAVAILABLE'
             where tenant_id = $1 and saga = $2 and instance = $3 and step = $4 and status = 'pending'",
            &[&transaction.tenant().0, &saga, &row.instance, &row.step, &until],
        )
        .await?;
    Ok(())
}

/// Makes the dead step of a dead letter pending again, with all its attempts. Returns `false` if there is no dead step.
pub(super) async fn requeue(
    transaction: &TenantTransaction,
    dead_letter: Uuid,
    due: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let changed = transaction
        .execute(
            "update saga_steps set status = 'pending', attempts = 0, next_attempt_at = $3
             where tenant_id = $1 and dead_letter_id = $2 and status = 'dead'",
            &[&transaction.tenant().0, &dead_letter, &due],
        )
        .await?;
    Ok(changed == 1)
}

/// Marks the dead step of a dead letter as discarded; the step runner records it. A failed reaction leaves no row.
pub(super) async fn discard(
    transaction: &TenantTransaction,
    dead_letter: Uuid,
    due: DateTime<Utc>,
) -> Result<(), StoreError> {
    let tenant = transaction.tenant().0;
    let row = transaction
        .query_opt(
            "select command from saga_steps
             where tenant_id = $1 and dead_letter_id = $2 and status = 'dead' for update",
            &[&tenant, &dead_letter],
        )
        .await?;
    let Some(row) = row else { return Ok(()) };
    let mut payload: StepPayload = read(row.get(0), "command")?;
    if payload.work == StepAction::React {
        let sql = "delete from saga_steps where tenant_id = $1 and dead_letter_id = $2";
        transaction.execute(sql, &[&tenant, &dead_letter]).await?;
        return Ok(());
    }
    payload.work = StepAction::Discard { work: Box::new(payload.work), dead_letter };
    transaction
        .execute(
            "update saga_steps set command = $3, status = 'pending', attempts = 0, next_attempt_at = $4
             where tenant_id = $1 and dead_letter_id = $2",
            &[&tenant, &dead_letter, &json(&payload), &due],
        )
        .await?;
    Ok(())
}

/// Inserts the step that retries a reaction, for the dead letter of a failed reaction.
pub(super) async fn insert_reaction(
    transaction: &TenantTransaction,
    saga: &str,
    trigger_event: Uuid,
    trigger_position: u64,
    dead_letter: Uuid,
    due: DateTime<Utc>,
) -> Result<(), StoreError> {
    // The reaction takes both from the trigger.
    let (traceparent, request_id) = (None, None);
    let payload = StepPayload {
        work: StepAction::React,
        trigger_position,
        traceparent,
        request_id,
        can_be_undone: false,
    };
    let row = NewStep {
        instance: trigger_event,
        step: "react".to_owned(),
        trigger_event,
        correlation_id: trigger_event,
        payload,
        due: None,
    };
    insert(transaction, saga, &[row], due).await?;
    transaction
        .execute(
            "update saga_steps set dead_letter_id = $4
             where tenant_id = $1 and saga = $2 and instance = $3 and step = 'react'",
            &[&transaction.tenant().0, &saga, &trigger_event, &dead_letter],
        )
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_keeps_the_latest_refusals() {
        let failure =
            |n: usize| StepFailure { at: n.to_string(), code: "X".to_owned(), message: String::new() };
        let row = StepRow {
            instance: Uuid::nil(),
            step: "s".to_owned(),
            trigger_event: Uuid::nil(),
            correlation_id: Uuid::nil(),
            payload: StepPayload {
                work: StepAction::React,
                trigger_position: 1,
                traceparent: None,
                request_id: None,
                can_be_undone: false,
            },
            attempts: 0,
            history: (0..FAILURE_HISTORY_MAX).map(failure).collect(),
            dead_letter_id: None,
        };
        let history = row.failures_with(failure(FAILURE_HISTORY_MAX));
        assert_eq!((history.len(), history[0].at.as_str()), (FAILURE_HISTORY_MAX, "1"));
    }

    #[test]
    fn a_task_reads_back_as_it_was_written() {
        let close = schemas::crm::customer::CustomerCommand::CloseCustomer { reason: None };
        let send = StepAction::Send { command: AnyCommand::new(Uuid::nil(), &close) };
        for work in [send, StepAction::React] {
            let (traceparent, request_id) = (Some("t".to_owned()), RequestId::parse("r"));
            let payload =
                StepPayload { work, trigger_position: 4, traceparent, request_id, can_be_undone: true };
            assert_eq!(read::<StepPayload>(&json(&payload), "task").expect("reads"), payload);
        }
    }
}
