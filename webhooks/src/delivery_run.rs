//! A delivery run for one endpoint: first the failed deliveries that are due, then new events. It ends when nothing is
//! left, or after a limited time, so that other endpoints are served.

use std::time::Duration;

use fairness::{Permits, Refused};
use futures::future::join_all;
use schemas::engine::{RecordedEvent, TenantId, TenantSlug, clock, ids};
use store::{LogFilter, Store, StoreError, TenantStore, TenantTransaction};
use tokio::time::Instant;
use uuid::Uuid;

use crate::attempts::{self, DeliveryAttempt};
use crate::failures::{self, DeliveryResults, FailedDelivery};
use crate::registry::{self, Disabled, DisabledReason, Ordering, Webhook};
use crate::secret::{SealError, SigningSecret};
use crate::sender::{EndpointResponse, Sender, WebhookMessage};
use crate::settings::WebhookSettings;

/// Maximum events of one read.
const PAGE_SIZE_MAX: usize = 50;
/// Maximum duration of a run.
const RUN_DURATION_MAX: Duration = Duration::from_secs(5);
/// How long deliveries in order continue before their results are stored. A crash repeats at most these.
const SETTLEMENT_INTERVAL: Duration = Duration::from_millis(200);
/// Runs between two prunings of stored attempts.
const PRUNE_INTERVAL_RUNS: u32 = 20;

/// Whether a run has left work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RemainingWork {
    More,
    Nothing,
}

/// Why a run was ended early; another run follows soon.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeliveryRunError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the signing secret cannot be used")]
    Secret(#[from] SealError),
    #[error("an event is no JSON")]
    Event(#[from] schemas::engine::DecodeError),
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Shared by all runs.
pub(crate) struct Deliverer {
    store: Store,
    sender: Sender,
    settings: WebhookSettings,
    requests: Permits<TenantId>,
    runs: std::sync::atomic::AtomicU32,
}

/// A run of one endpoint.
struct DeliveryRun<'a> {
    deliverer: &'a Deliverer,
    handle: TenantStore,
    slug: TenantSlug,
    webhook: Webhook,
    secrets: Vec<SigningSecret>,
}

/// An attempt with the endpoint's response.
struct CompletedAttempt {
    attempt: DeliveryAttempt,
    response: EndpointResponse,
}

impl Deliverer {
    pub(crate) fn new(store: Store, sender: Sender, settings: WebhookSettings) -> Self {
        let requests = Permits::new(settings.limits(), Duration::MAX);
        Self { store, sender, settings, requests, runs: 0.into() }
    }

    /// Delivers to an endpoint for a limited time.
    pub(crate) async fn run_deliveries(
        &self,
        tenant: TenantId,
        webhook: Uuid,
    ) -> Result<RemainingWork, DeliveryRunError> {
        let Some(record) = self.store.tenant_by_id(tenant).await?.filter(|record| !record.suspended) else {
            return Ok(RemainingWork::Nothing);
        };
        let handle = self.store.tenant(tenant);
        let begun = Instant::now();
        while begun.elapsed() < RUN_DURATION_MAX {
            let transaction = handle.begin_worker_transaction().await?;
            let Some(webhook) = registry::find(&transaction, webhook).await? else {
                return Ok(RemainingWork::Nothing);
            };
            if webhook.disabled.is_some() {
                return Ok(RemainingWork::Nothing);
            }
            let width = self.settings.max_concurrent_requests_per_tenant as u32;
            let due = failures::due(&transaction, webhook.id, clock::now(), width).await?;
            transaction.commit().await?;
            let mut run = DeliveryRun {
                deliverer: self,
                secrets: self.secrets(tenant, &webhook)?,
                handle: handle.clone(),
                slug: record.slug.clone(),
                webhook,
            };
            let goes_on = if due.is_empty() { run.deliver_new().await? } else { run.redeliver(due).await? };
            if !goes_on {
                self.prune(&handle, run.webhook.id).await?;
                return Ok(RemainingWork::Nothing);
            }
        }
        self.prune(&handle, webhook).await?;
        Ok(RemainingWork::More)
    }

    fn secrets(&self, tenant: TenantId, webhook: &Webhook) -> Result<Vec<SigningSecret>, SealError> {
        let open = |sealed: &[u8]| SigningSecret::open(self.store.key(), tenant, webhook.id, sealed);
        let mut secrets = vec![open(&webhook.secret)?];
        if let Some((old, until)) = &webhook.old_secret
            && clock::now() < *until
        {
            secrets.push(open(old)?);
        }
        Ok(secrets)
    }

    async fn prune(&self, handle: &TenantStore, webhook: Uuid) -> Result<(), StoreError> {
        let run = self.runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if !run.is_multiple_of(PRUNE_INTERVAL_RUNS) {
            return Ok(());
        }
        let transaction = handle.begin_worker_transaction().await?;
        attempts::prune(&transaction, webhook).await?;
        transaction.commit().await
    }
}

impl DeliveryRun<'_> {
    /// Delivers the events after the endpoint's position. Returns whether more may be left.
    async fn deliver_new(&mut self) -> Result<bool, DeliveryRunError> {
        if self.webhook.held {
            return Ok(false);
        }
        let filter = LogFilter { types: self.webhook.patterns()?, stream: None };
        let from = self.webhook.position;
        let page = self.handle.read_log_page(from, None, PAGE_SIZE_MAX, &filter).await?;
        if page.log_id != self.webhook.log_id || page.head < from {
            return self.disable(DisabledReason::LogReplaced).await;
        }
        let events = self.readable_events(page.events).await?;
        let goes_on = match self.webhook.ordering {
            Ordering::InOrder => self.deliver_in_order(&events).await?,
            Ordering::Parallel => self.deliver_in_parallel(&events).await?,
        };
        if goes_on && self.webhook.position < page.scanned_to {
            // No event matched the filter.
            return self.settle(page.scanned_to, DeliveryResults::default()).await;
        }
        Ok(goes_on && page.scanned_to > from)
    }

    /// Decrypts personal data if the endpoint may receive it. Otherwise it stays encrypted as stored.
    async fn readable_events(&self, events: Vec<RecordedEvent>) -> Result<Vec<RecordedEvent>, StoreError> {
        if self.webhook.personal_data { self.handle.open_for_readers(events).await } else { Ok(events) }
    }

    async fn deliver_in_order(&mut self, events: &[RecordedEvent]) -> Result<bool, DeliveryRunError> {
        let mut settlement = DeliveryResults::default();
        let mut settled = Instant::now();
        for event in events {
            let completed = self.attempt(event, 1).await?;
            let failed = completed.response.error.is_some();
            let gone = self.record_attempt(completed, None, &mut settlement);
            if failed || settled.elapsed() > SETTLEMENT_INTERVAL {
                if !self.settle(event.position, std::mem::take(&mut settlement)).await? {
                    return Ok(false);
                }
                settled = Instant::now();
            }
            if failed {
                // Later events wait until this one is delivered or becomes a dead letter.
                self.disable_if_failing(gone).await?;
                return Ok(false);
            }
        }
        match events.last() {
            Some(last) if !settlement.attempts.is_empty() => self.settle(last.position, settlement).await,
            _ => Ok(true),
        }
    }

    async fn deliver_in_parallel(&mut self, events: &[RecordedEvent]) -> Result<bool, DeliveryRunError> {
        for some in events.chunks(self.deliverer.settings.max_concurrent_requests_per_tenant.max(1)) {
            let mut settlement = DeliveryResults::default();
            let mut gone = false;
            for completed in join_all(some.iter().map(|event| self.attempt(event, 1))).await {
                gone |= self.record_attempt(completed?, None, &mut settlement);
            }
            let failed = !settlement.failed.is_empty();
            let Some(last) = some.last() else { break };
            if !self.settle(last.position, settlement).await?
                || (failed && !self.disable_if_failing(gone).await?)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Retries failed deliveries.
    async fn redeliver(&mut self, due: Vec<FailedDelivery>) -> Result<bool, DeliveryRunError> {
        let everything = LogFilter::default();
        let attempts = due.iter().map(|failure| async {
            let (before, at) = (failure.position.saturating_sub(1), failure.position);
            let page = self.handle.read_log_page(before, Some(at), 1, &everything).await?;
            let events = self.readable_events(page.events).await?;
            let event = events.first().filter(|event| event.event_id == failure.event_id);
            match event {
                Some(event) => self.attempt(event, failure.attempts + 1).await.map(Some),
                None => Ok(None),
            }
        });
        let completed: Vec<Option<CompletedAttempt>> =
            join_all(attempts).await.into_iter().collect::<Result<_, DeliveryRunError>>()?;
        let mut settlement = DeliveryResults::default();
        let mut gone = false;
        for (failure, completed) in due.into_iter().zip(completed) {
            let Some(completed) = completed else { return self.disable(DisabledReason::LogReplaced).await };
            gone |= self.record_attempt(completed, Some(failure), &mut settlement);
        }
        let failed = !settlement.failed.is_empty();
        let settled = self.settle(self.webhook.position, settlement).await?;
        if settled && failed { self.disable_if_failing(gone).await } else { Ok(settled) }
    }

    /// Sends one request, within the limits of the tenant and of the process.
    async fn attempt(
        &self,
        event: &RecordedEvent,
        number: u32,
    ) -> Result<CompletedAttempt, DeliveryRunError> {
        let cloud_event = event.to_cloud_event(&self.slug)?;
        let body = serde_json::to_vec(&cloud_event).map_err(|source| schemas::engine::DecodeError {
            event_type: event.event_type.to_string(),
            source,
        })?;
        let id = format!("msg_{}", ids::derived_id(event.event_id, &self.webhook.id.to_string()).simple());
        let message = WebhookMessage { id, body: body.into() };
        let _permit = self.deliverer.requests.acquire(self.handle.id()).await?;
        let (begun, at) = (Instant::now(), clock::now());
        let response = self.deliverer.sender.send(&self.webhook.url, &message, &self.secrets).await;
        let outcome = if response.error.is_none() { "succeeded" } else { "failed" };
        metrics::counter!("annals_webhook_attempts_total", "outcome" => outcome).increment(1);
        metrics::histogram!("annals_webhook_attempt_duration_seconds", "outcome" => outcome)
            .record(begun.elapsed().as_secs_f64());
        let attempt = DeliveryAttempt {
            id: ids::new_id(),
            position: event.position,
            event_id: event.event_id,
            event_type: event.event_type.to_string(),
            number,
            http_status: response.http_status,
            error: response.error.clone(),
            millis: begun.elapsed().as_millis() as u32,
            at,
        };
        Ok(CompletedAttempt { attempt, response })
    }

    /// Adds an attempt to the results to store. Returns whether the endpoint responded that it is gone.
    fn record_attempt(
        &self,
        completed: CompletedAttempt,
        before: Option<FailedDelivery>,
        settlement: &mut DeliveryResults,
    ) -> bool {
        let CompletedAttempt { attempt, response } = completed;
        let settings = &self.deliverer.settings;
        if let Some(error) = &attempt.error {
            let first_at = before.as_ref().map_or(attempt.at, |before| before.first_at);
            let now = clock::now();
            let is_dead = (now - first_at).to_std().unwrap_or_default() >= settings.retry_for;
            settlement.failed.push(FailedDelivery {
                position: attempt.position,
                event_id: attempt.event_id,
                event_type: attempt.event_type.clone(),
                is_dead,
                is_manual_retry: before.is_some_and(|before| before.is_manual_retry),
                attempts: attempt.number,
                first_at,
                last_at: attempt.at,
                next_attempt_at: now + settings.wait(attempt.number, response.retry_after),
                error: error.clone(),
            });
            if is_dead {
                metrics::counter!("annals_webhook_dead_letters_total").increment(1);
            }
        } else if before.is_some() {
            settlement.resolved.push(attempt.position);
        }
        settlement.attempts.push(attempt);
        response.is_gone()
    }

    /// Stores the results and moves the endpoint's position. Returns `false` if the endpoint was changed meanwhile, or
    /// is disabled because it has the maximum number of dead letters.
    async fn settle(&mut self, to: u64, settlement: DeliveryResults) -> Result<bool, DeliveryRunError> {
        let transaction = self.handle.begin_worker_transaction().await?;
        let (id, epoch, from) = (self.webhook.id, self.webhook.epoch, self.webhook.position);
        if !failures::record(&transaction, id, epoch, (from, to), &settlement).await? {
            return Ok(false);
        }
        // In the same transaction as the dead letters, so that a crash cannot come between.
        let full = settlement.failed.iter().any(|failure| failure.is_dead)
            && failures::count_dead(&transaction, id).await?
                >= self.deliverer.settings.max_dead_letters_per_endpoint;
        let disabled = full && self.disable_in(&transaction, DisabledReason::DeadLetters).await?;
        transaction.commit().await?;
        self.webhook.position = to;
        Ok(!disabled)
    }

    /// After a failure: disables an endpoint that is gone or has failed for too long. Returns whether to continue.
    async fn disable_if_failing(&mut self, gone: bool) -> Result<bool, DeliveryRunError> {
        if gone {
            return self.disable(DisabledReason::Gone).await;
        }
        let transaction = self.handle.begin_worker_transaction().await?;
        let webhook = registry::find(&transaction, self.webhook.id).await?;
        transaction.commit().await?;
        let failing = webhook.and_then(|webhook| webhook.failing_since);
        let failing = failing.and_then(|since| (clock::now() - since).to_std().ok()).unwrap_or_default();
        if failing >= self.deliverer.settings.disable_after {
            return self.disable(DisabledReason::Failing).await;
        }
        Ok(true)
    }

    async fn disable(&self, reason: DisabledReason) -> Result<bool, DeliveryRunError> {
        let transaction = self.handle.begin_worker_transaction().await?;
        self.disable_in(&transaction, reason).await?;
        transaction.commit().await?;
        Ok(false)
    }

    /// Disables the endpoint unless it was changed meanwhile. Returns whether it was disabled.
    async fn disable_in(
        &self,
        transaction: &TenantTransaction,
        reason: DisabledReason,
    ) -> Result<bool, DeliveryRunError> {
        let why = Disabled { reason, at: clock::now() };
        let disabled = registry::disable(transaction, self.webhook.id, self.webhook.epoch, why).await?;
        if disabled {
            let reason = reason.as_str();
            tracing::warn!(tenant = %self.handle.id(), webhook = %self.webhook.id, reason, "a webhook was disabled");
            metrics::counter!("annals_webhooks_disabled_total", "reason" => reason).increment(1);
        }
        Ok(disabled)
    }
}
