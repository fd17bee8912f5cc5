//! What an append worker does when a flush is rejected, or when its outcome is unknown.

use std::collections::HashSet;
use std::time::Duration;

use schemas::engine::TenantId;
use tokio::time::Instant;

use super::super::pending::PendingAppend;
use super::super::plan::{Decision, Plan};
use super::super::rejection::{AppendRejection, classify_append_error};
use super::{AppendWorker, OUTCOME_RESOLUTION_TIMEOUT, answer, bounded, reject_all};
use crate::stored_receipt::IdempotencyClaim;
use crate::{Causes, StoreError};

impl AppendWorker {
    /// Splits a rejected flush until the rejected append is alone, so that it cannot fail the appends of other tenants.
    pub(super) async fn split(&mut self, mut batch: Vec<PendingAppend>, error: tokio_postgres::Error) {
        metrics::counter!("annals_append_flush_splits_total").increment(1);
        for pending in &batch {
            self.cache.pop(&pending.tenant);
        }
        if batch.len() > 1 {
            let back = batch.split_off(batch.len() / 2);
            for half in [batch, back] {
                Box::pin(self.flush_alone(half)).await;
            }
            return;
        }
        for pending in batch {
            match classify_append_error(&error) {
                AppendRejection::Retry => self.requeue_with_penalty(vec![pending], 8),
                AppendRejection::Final(rejection) | AppendRejection::Unavailable(rejection) => {
                    answer(pending, Err(rejection));
                }
            }
        }
    }

    async fn flush_alone(&mut self, batch: Vec<PendingAppend>) {
        let locked = batch.iter().any(|pending| self.contended.contains(&pending.tenant));
        self.submit(batch, locked).await;
        while !self.in_flight.is_empty() {
            self.complete_next().await;
        }
    }

    /// Resolves an unknown outcome.
    ///
    /// It first makes sure that the old transaction has ended or can never commit, then reads what was written.
    pub(super) async fn resolve_unknown_outcome(
        &mut self,
        batch: Vec<PendingAppend>,
        plan: Plan,
        error: &StoreError,
    ) {
        tracing::warn!(error = %Causes(error), "the outcome of a flush is unknown; looking it up");
        self.connections = None;
        let deadline =
            *self.resolution_deadline.get_or_insert_with(|| Instant::now() + OUTCOME_RESOLUTION_TIMEOUT);
        let mut pause = Duration::from_millis(20);
        while Instant::now() < deadline {
            if let Ok(swapped) = bounded(self.find_swapped(&batch, &plan)).await.flatten() {
                return self.apply_result(batch, plan, &swapped);
            }
            self.connections = None;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
        self.evict(plan.moves.keys());
        reject_all(batch, error);
    }

    async fn find_swapped(
        &mut self,
        batch: &[PendingAppend],
        plan: &Plan,
    ) -> Result<HashSet<TenantId>, StoreError> {
        self.connect().await?;
        let (writer, lookup) = self.connections.as_ref().expect("just connected");
        let mut swapped = HashSet::new();
        for tenant in plan.moves.keys() {
            writer.fence(*tenant).await?;
            let is_swapped = if let Some(row) = plan.rows.iter().find(|row| row.tenant == *tenant) {
                lookup.contains_event(*tenant, row.position, row.event_id).await?
            } else {
                // The flush only wrote receipts of commands without effect.
                let claim =
                    written_idempotency_claim(batch, plan, *tenant).expect("a moved tenant has a receipt");
                lookup.contains_receipt(*tenant, claim, plan.planned_at).await?
            };
            if is_swapped {
                swapped.insert(*tenant);
            }
        }
        Ok(swapped)
    }
}

/// The idempotency claim of the first append of a tenant that the flush writes.
fn written_idempotency_claim<'a>(
    batch: &'a [PendingAppend],
    plan: &Plan,
    tenant: TenantId,
) -> Option<&'a IdempotencyClaim> {
    let mut written = batch.iter().zip(&plan.decisions);
    let (pending, _) = written
        .find(|(pending, decision)| pending.tenant == tenant && matches!(decision, Decision::Write(_)))?;
    pending.append.claim.as_ref()
}
