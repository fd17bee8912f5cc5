//! Whose steps are to be taken next.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use futures::FutureExt;
use schemas::engine::TenantId;
use tokio::sync::Notify;

/// Tenants whose steps are to be taken, each at most once at a time.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<TenantId>,
    queued: HashSet<TenantId>,
    /// At work, and how to tell them that there is more.
    at_work: HashMap<TenantId, Arc<Notify>>,
}

impl Queue {
    pub(super) fn add(&mut self, tenant: TenantId) {
        if let Some(hinted) = self.at_work.get(&tenant) {
            hinted.notify_one();
        } else if self.queued.insert(tenant) {
            self.waiting.push_back(tenant);
        }
    }

    pub(super) fn next(&mut self) -> Option<(TenantId, Arc<Notify>)> {
        let tenant = self.waiting.pop_front()?;
        self.queued.remove(&tenant);
        let hinted = Arc::new(Notify::new());
        self.at_work.insert(tenant, Arc::clone(&hinted));
        Some((tenant, hinted))
    }

    pub(super) fn ended(&mut self, tenant: TenantId) {
        // A hint that came as the work ended was not heard.
        let unheard =
            self.at_work.remove(&tenant).is_some_and(|hinted| hinted.notified().now_or_never().is_some());
        if unheard {
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
        let mut queue = Queue::default();
        for tenant in [a, a, b] {
            queue.add(tenant);
        }
        let mut next = || queue.next().map(|(tenant, _)| tenant);
        assert_eq!((next(), next(), next()), (Some(a), Some(b), None));
        queue.add(a);
        assert!(queue.next().is_none());
        queue.ended(a);
        queue.ended(b);
        assert_eq!((queue.next().map(|(tenant, _)| tenant), queue.next().is_none()), (Some(a), true));
    }
}
