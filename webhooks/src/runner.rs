//! Finds endpoints with work: those with new events (from a notification or a poll of the heads), and those with a
//! failed delivery that is due. A tenant's endpoints are assigned to one process at a time.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use fairness::FairScheduler;
use futures::FutureExt;
use schemas::engine::{TenantId, clock};
use store::{Causes, Store, TenantAssignment, Workload};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::delivery_run::{Deliverer, RemainingWork};
use crate::registry::{self, ActiveWebhook};
use crate::sender::{Sender, SenderError};
use crate::settings::WebhookSettings;

/// How often the endpoints are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The pause of an endpoint after an internal error.
const FAULT_BACKOFF: Duration = Duration::from_secs(2);

type EndpointKey = (TenantId, Uuid);

/// Delivers until cancelled; outages are retried. A delivery interrupted at the end is repeated later.
///
/// # Errors
/// [`SenderError`] if the HTTP client cannot be created.
pub async fn run(
    store: Store,
    settings: WebhookSettings,
    cancel: CancellationToken,
) -> Result<(), SenderError> {
    let sender = Sender::new(&settings)?;
    let assignment = store.tenant_assignment(Workload::Webhooks);
    let mut notifications = store.head_moves();
    let mut runner = Runner {
        deliverer: Arc::new(Deliverer::new(store.clone(), sender, settings)),
        assignment,
        known: HashMap::new(),
        ready: FairScheduler::new(settings.limits()),
        queued: HashSet::new(),
        running: HashMap::new(),
        runs: JoinSet::new(),
    };
    let mut polls = tokio::time::interval(POLL_INTERVAL);
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        runner.start_ready();
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            _ = polls.tick() => match registry::active(&store, clock::now()).await {
                Ok(active) => runner.queue_due(active),
                Err(error) => tracing::warn!(error = %Causes(&error), "the webhooks cannot be looked at"),
            },
            notification = notifications.recv() => match notification {
                Ok(tenant) => runner.notify(tenant),
                // The next poll finds the missed notifications.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
            Some(finish) = runner.runs.join_next() => {
                // A run catches its own panics and is never aborted.
                if let Ok((key, next)) = finish {
                    runner.finish(key, next);
                }
            }
        }
    }
}

struct Runner {
    deliverer: Arc<Deliverer>,
    assignment: TenantAssignment,
    /// The active endpoints at the last poll.
    known: HashMap<TenantId, Vec<Uuid>>,
    /// A run of a hanging endpoint lasts for its whole timeout. So a tenant has at most as many runs as concurrent
    /// requests.
    ready: FairScheduler<TenantId, Uuid>,
    queued: HashSet<EndpointKey>,
    /// Running endpoints, and whether new work was found for them meanwhile.
    running: HashMap<EndpointKey, bool>,
    runs: JoinSet<(EndpointKey, RemainingWork)>,
}

impl Runner {
    fn queue_due(&mut self, active: Vec<ActiveWebhook>) {
        self.known.clear();
        for endpoint in active {
            self.known.entry(endpoint.tenant).or_default().push(endpoint.webhook);
            if endpoint.is_due {
                self.queue((endpoint.tenant, endpoint.webhook));
            }
        }
    }

    fn notify(&mut self, tenant: TenantId) {
        for webhook in self.known.get(&tenant).cloned().unwrap_or_default() {
            self.queue((tenant, webhook));
        }
    }

    fn queue(&mut self, key: EndpointKey) {
        if !self.assignment.owns(key.0) {
            return;
        }
        if let Some(again) = self.running.get_mut(&key) {
            *again = true;
        } else if self.queued.insert(key) && self.ready.push(key.0, key.1).is_err() {
            // The next poll queues it.
            self.queued.remove(&key);
        }
    }

    fn start_ready(&mut self) {
        while let Some(key) = self.ready.next() {
            self.queued.remove(&key);
            self.running.insert(key, false);
            let deliverer = Arc::clone(&self.deliverer);
            self.runs.spawn(async move {
                let run = AssertUnwindSafe(deliverer.run_deliveries(key.0, key.1)).catch_unwind();
                let next = match run.await {
                    Ok(Ok(next)) => next,
                    Ok(Err(error)) => {
                        tracing::warn!(tenant = %key.0, webhook = %key.1, error = %Causes(&error), "deliveries were interrupted");
                        tokio::time::sleep(FAULT_BACKOFF).await;
                        RemainingWork::Nothing
                    }
                    Err(_panic) => {
                        tracing::error!(tenant = %key.0, webhook = %key.1, "deliveries panicked");
                        RemainingWork::Nothing
                    }
                };
                (key, next)
            });
        }
    }

    fn finish(&mut self, key: EndpointKey, next: RemainingWork) {
        let again = self.running.remove(&key).unwrap_or_default();
        self.ready.release(&key.0);
        if again || next == RemainingWork::More {
            self.queue(key);
        }
    }
}
