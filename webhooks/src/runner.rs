//! Finds out whose turn it is: endpoints with something new (a hint or a look at the heads says so) and endpoints with a
//! failed delivery that is due. A tenant's endpoints belong to one process at a time, as all shared work does.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use fairness::Turns;
use futures::FutureExt;
use schemas::engine::{TenantId, clock};
use store::{Causes, Share, SharedWork, Store};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::sender::{Sender, SenderError};
use crate::settings::WebhookSettings;
use crate::turn::{Deliverer, Next};

/// How often the endpoints are looked at.
const POLL: Duration = Duration::from_millis(250);

/// How long an endpoint rests after a fault of ours.
const REST: Duration = Duration::from_secs(2);

type Key = (TenantId, Uuid);

/// Delivers until cancelled; outages are waited out. What is under way at the end is delivered again later.
pub async fn run(
    store: Store,
    settings: WebhookSettings,
    cancel: CancellationToken,
) -> Result<(), SenderError> {
    let sender = Sender::new(&settings)?;
    let share = store.share(SharedWork::Webhooks);
    let mut hints = store.head_moves();
    let mut runner = Runner {
        deliverer: Arc::new(Deliverer::new(store.clone(), sender, settings)),
        share,
        known: HashMap::new(),
        ready: Turns::new(settings.limits()),
        queued: HashSet::new(),
        at_work: HashMap::new(),
        turns: JoinSet::new(),
    };
    let mut polls = tokio::time::interval(POLL);
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        runner.start_ready();
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            _ = polls.tick() => match store.active_webhooks(clock::now()).await {
                Ok(active) => runner.look_at(active),
                Err(error) => tracing::warn!(error = %Causes(&error), "the webhooks cannot be looked at"),
            },
            hint = hints.recv() => match hint {
                Ok(tenant) => runner.hinted(tenant),
                // The next look finds what was missed.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
            Some(ended) = runner.turns.join_next() => {
                // A turn catches its own panics, and nobody aborts one.
                if let Ok((key, next)) = ended {
                    runner.ended(key, next);
                }
            }
        }
    }
}

struct Runner {
    deliverer: Arc<Deliverer>,
    share: Share,
    /// The active endpoints, as of the last look.
    known: HashMap<TenantId, Vec<Uuid>>,
    /// A turn of a hanging endpoint lasts for its whole timeout, so no tenant has more turns than requests at a time.
    ready: Turns<TenantId, Uuid>,
    queued: HashSet<Key>,
    /// Endpoints at work, and whether something has come up for them meanwhile.
    at_work: HashMap<Key, bool>,
    turns: JoinSet<(Key, Next)>,
}

impl Runner {
    fn look_at(&mut self, active: Vec<store::webhooks::delivery::DueWebhook>) {
        self.known.clear();
        for endpoint in active {
            self.known.entry(endpoint.tenant).or_default().push(endpoint.webhook);
            if endpoint.is_due {
                self.queue((endpoint.tenant, endpoint.webhook));
            }
        }
    }

    fn hinted(&mut self, tenant: TenantId) {
        for webhook in self.known.get(&tenant).cloned().unwrap_or_default() {
            self.queue((tenant, webhook));
        }
    }

    fn queue(&mut self, key: Key) {
        if !self.share.owns(key.0) {
            return;
        }
        if let Some(again) = self.at_work.get_mut(&key) {
            *again = true;
        } else if self.queued.insert(key) && self.ready.push(key.0, key.1).is_err() {
            // The next look queues it.
            self.queued.remove(&key);
        }
    }

    fn start_ready(&mut self) {
        while let Some(key) = self.ready.next() {
            self.queued.remove(&key);
            self.at_work.insert(key, false);
            let deliverer = Arc::clone(&self.deliverer);
            self.turns.spawn(async move {
                let turn = AssertUnwindSafe(deliverer.take_turn(key.0, key.1)).catch_unwind();
                let next = match turn.await {
                    Ok(Ok(next)) => next,
                    Ok(Err(error)) => {
                        tracing::warn!(tenant = %key.0, webhook = %key.1, error = %Causes(&error), "deliveries were interrupted");
                        tokio::time::sleep(REST).await;
                        Next::Nothing
                    }
                    Err(_panic) => {
                        tracing::error!(tenant = %key.0, webhook = %key.1, "deliveries panicked");
                        Next::Nothing
                    }
                };
                (key, next)
            });
        }
    }

    fn ended(&mut self, key: Key, next: Next) {
        let again = self.at_work.remove(&key).unwrap_or_default();
        self.ready.release(&key.0);
        if again || next == Next::More {
            self.queue(key);
        }
    }
}
