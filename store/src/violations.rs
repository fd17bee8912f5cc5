//! Reports violations of invariants, each once for each tenant.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use schemas::engine::TenantId;

use crate::{Invariant, StoreError};

/// The violations that a process has reported.
#[derive(Default)]
pub(crate) struct ReportedViolations(Mutex<HashSet<(TenantId, Invariant)>>);

impl ReportedViolations {
    /// Whether this is the first violation of the invariant by this tenant.
    fn insert(&self, tenant: TenantId, invariant: Invariant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((tenant, invariant))
    }

    /// Reports a violation and returns it as an error.
    pub(crate) fn report(&self, tenant: TenantId, invariant: Invariant, position: u64) -> StoreError {
        if self.insert(tenant, invariant) {
            metrics::counter!("annals_invariant_violations_total", "invariant" => invariant.name())
                .increment(1);
            tracing::error!(
                %tenant, position, invariant = invariant.name(),
                "stored data break a rule that always holds; this work of the tenant stops until the data are repaired"
            );
        }
        StoreError::InvariantViolated { invariant, position }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_violation_is_new_once_for_each_tenant_and_invariant() {
        let (reported, tenant) = (ReportedViolations::default(), TenantId(Uuid::from_u128(1)));
        assert!(reported.insert(tenant, Invariant::LogPositions));
        assert!(!reported.insert(tenant, Invariant::LogPositions));
        assert!(reported.insert(tenant, Invariant::StreamVersions));
        assert!(reported.insert(TenantId(Uuid::from_u128(2)), Invariant::LogPositions));
    }
}
