//! The queue of tenants with due steps.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use futures::FutureExt;
use schemas::engine::TenantId;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Tenants with due steps. Each tenant is queued at most once.
#[derive(Default)]
pub(super) struct TenantQueue {
    waiting: VecDeque<TenantId>,
    queued: HashSet<TenantId>,
    /// Tenants that a worker handles now, and how to notify the worker of more steps.
    active: HashMap<TenantId, Arc<Notify>>,
    /// Tenants whose data break a rule that always holds, and when each is handled again.
    paused: HashMap<TenantId, Instant>,
}

impl TenantQueue {
    pub(super) fn add(&mut self, tenant: TenantId) {
        if let Some(until) = self.paused.get(&tenant) {
            if Instant::now() < *until {
                return;
            }
            self.paused.remove(&tenant);
        }
        if let Some(wakeup) = self.active.get(&tenant) {
            wakeup.notify_one();
        } else if self.queued.insert(tenant) {
            self.waiting.push_back(tenant);
        }
    }

    /// Ignores the tenant until this time.
    pub(super) fn pause(&mut self, tenant: TenantId, until: Instant) {
        self.paused.insert(tenant, until);
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
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_paused_tenant_is_ignored_until_its_pause_is_over() {
        let (a, b) = (TenantId(Uuid::from_u128(1)), TenantId(Uuid::from_u128(2)));
        let mut queue = TenantQueue::default();
        queue.pause(a, Instant::now() + Duration::from_hours(1));
        queue.add(a);
        queue.add(b);
        assert_eq!((queue.next().map(|(tenant, _)| tenant), queue.next().is_none()), (Some(b), true));
        queue.pause(a, Instant::now());
        queue.add(a);
        assert_eq!(queue.next().map(|(tenant, _)| tenant), Some(a));
    }

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
