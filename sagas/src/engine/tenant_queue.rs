//! The queue of tenants with due steps.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use futures::FutureExt;
use schemas::engine::TenantId;
use tokio::sync::Notify;

/// Tenants with due steps. Each tenant is queued at most once.
#[derive(Default)]
pub(super) struct TenantQueue {
    waiting: VecDeque<TenantId>,
    queued: HashSet<TenantId>,
    /// Tenants that a worker handles now, and how to notify the worker of more steps.
    active: HashMap<TenantId, Arc<Notify>>,
}

impl TenantQueue {
    pub(super) fn add(&mut self, tenant: TenantId) {
        if let Some(wakeup) = self.active.get(&tenant) {
            wakeup.notify_one();
        } else if self.queued.insert(tenant) {
            self.waiting.push_back(tenant);
        }
    }

    pub(super) fn next(&mut self) -> Option<(TenantId, Arc<Notify>)> {
        let tenant = self.waiting.pop_front()?;
        self.queued.remove(&tenant);
        let wakeup = Arc::new(Notify::new());
        self.active.insert(tenant, Arc::clone(&wakeup));
        Some((tenant, wakeup))
    }

    pub(super) fn finish(&mut self, tenant: TenantId) {
        // The worker ended before it received this notification.
        let has_pending_wakeup =
            self.active.remove(&tenant).is_some_and(|wakeup| wakeup.notified().now_or_never().is_some());
        if has_pending_wakeup {
            self.add(tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_tenant_is_at_work_once_and_comes_again_when_a_hint_was_not_heard() {
        let (a, b) = (TenantId(Uuid::from_u128(1)), TenantId(Uuid::from_u128(2)));
        let mut queue = TenantQueue::default();
        for tenant in [a, a, b] {
            queue.add(tenant);
        }
        let mut next = || queue.next().map(|(tenant, _)| tenant);
        assert_eq!((next(), next(), next()), (Some(a), Some(b), None));
        queue.add(a);
        assert!(queue.next().is_none());
        queue.finish(a);
        queue.finish(b);
        assert_eq!((queue.next().map(|(tenant, _)| tenant), queue.next().is_none()), (Some(a), true));
    }
}
