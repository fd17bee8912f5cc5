//! The check of a plan before it is written: its positions and versions have no gap.

use std::collections::HashMap;

use schemas::engine::TenantId;

use super::super::AppendError;
use super::super::pending::PendingAppend;
use super::{Decision, Plan};
use crate::{Invariant, StoreError};

impl Plan {
    /// Takes tenants whose positions or versions would have a gap out of the plan. Their appends fail.
    pub(super) fn refuse_gaps(&mut self, batch: &[PendingAppend]) {
        let broken = self.gaps();
        if broken.is_empty() {
            return;
        }
        self.rows.retain(|row| !broken.contains_key(&row.tenant));
        self.moves.retain(|tenant, _| !broken.contains_key(tenant));
        for (decision, pending) in self.decisions.iter_mut().zip(batch) {
            if let (Decision::Write(_), Some(&(invariant, position))) =
                (&*decision, broken.get(&pending.tenant))
            {
                let error = AppendError::Unavailable(StoreError::InvariantViolated { invariant, position });
                *decision = Decision::Answer { result: Err(error), requires_swap: false };
            }
        }
    }

    /// The first gap of each tenant, with its position.
    fn gaps(&self) -> HashMap<TenantId, (Invariant, u64)> {
        let mut broken = HashMap::new();
        let mut ends: HashMap<TenantId, u64> =
            self.moves.iter().map(|(tenant, (before, _))| (*tenant, before.position)).collect();
        for row in &self.rows {
            let end = ends.entry(row.tenant).or_default();
            if row.position != *end + 1 {
                broken.entry(row.tenant).or_insert((Invariant::LogPositions, *end + 1));
            }
            *end = row.position;
            let Decision::Write(receipt) = &self.decisions[row.pending] else { continue };
            if row.version + u64::from(receipt.count) != receipt.version + 1 + row.event as u64 {
                broken.entry(row.tenant).or_insert((Invariant::StreamVersions, row.position));
            }
        }
        for (tenant, (_, after)) in &self.moves {
            if ends[tenant] != after.position {
                broken.entry(*tenant).or_insert((Invariant::LogPositions, ends[tenant] + 1));
            }
        }
        broken
    }
}
