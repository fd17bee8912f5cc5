//! The credential reconciler applies the registry of credentials to NATS.
//! It runs after each change, and periodically because NATS may lose its state.

use std::path::PathBuf;
use std::time::Duration;

use store::{Causes, Store, Workload};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::Issuer;
use super::consumers::ConsumerReconciler;
use super::registry;
use super::system_account::{SystemAccount, SystemError};
use crate::{Nats, NatsConfig, NatsError};

/// How often the registry is read for changes. The caller that issues a credential waits for it.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How often all credentials are compared, acknowledged positions stored, and suspended tenants found.
const FULL_RECONCILE_INTERVAL: Duration = Duration::from_secs(2);
/// Wait after a failure.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Settings of the reconciler, beyond the product's own connection.
pub struct ReconcilerConfig {
    /// Settings of the product's own connection to NATS.
    pub nats: NatsConfig,
    /// The credentials file of a user of the system account.
    pub system_credentials: PathBuf,
    /// The seed of a key that signs accounts.
    pub operator_seed: String,
    /// Signs for the integrators' account.
    pub issuer: Issuer,
}

/// Reconciles until `cancel` is cancelled. Outages are retried.
/// Several reconcilers may run: one at a time pushes keys, and consumers are divided between them by tenant.
///
/// # Errors
/// `SystemError` if the settings of the system account or a key are invalid. Outages are not errors.
pub async fn reconcile(
    store: Store,
    nats: Nats,
    config: ReconcilerConfig,
    cancel: CancellationToken,
) -> Result<(), SystemError> {
    let ReconcilerConfig { nats: application, system_credentials, operator_seed, issuer } = config;
    let system = SystemAccount::connect(&application, &system_credentials, &operator_seed, issuer).await?;
    let mut consumers =
        ConsumerReconciler::new(store.clone(), nats.clone(), store.tenant_assignment(Workload::Relay));
    tokio::select! {
        () = cancel.cancelled() => {}
        () = reconcile_keys(&store, &nats, &system) => {}
        () = reconcile_consumers(&store, &nats, &mut consumers) => {}
    }
    Ok(())
}

async fn reconcile_keys(store: &Store, nats: &Nats, system: &SystemAccount) {
    let mut schedule = ReconcileSchedule::new(nats);
    loop {
        let all = schedule.next().await;
        let done = async {
            if !all && !registry::changes_due(store).await?.0 {
                return Ok(());
            }
            let Some(cut) = registry::lock_revoked_keys(store).await? else { return Ok(()) };
            system.deny(cut.keys()).await?;
            cut.applied().await?;
            Ok(())
        };
        schedule.finished(done.await).await;
    }
}

async fn reconcile_consumers(store: &Store, nats: &Nats, consumers: &mut ConsumerReconciler) {
    let mut schedule = ReconcileSchedule::new(nats);
    loop {
        let all = schedule.next().await;
        let done = async {
            if all || registry::changes_due(store).await?.1 {
                consumers.reconcile(all).await?;
            }
            Ok(())
        };
        schedule.finished(done.await).await;
    }
}

/// Decides when to reconcile, and whether only changes or everything.
struct ReconcileSchedule {
    ticks: tokio::time::Interval,
    connections: tokio::sync::watch::Receiver<u64>,
    compare_at: Instant,
    failing: bool,
}

impl ReconcileSchedule {
    fn new(nats: &Nats) -> Self {
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, connections: nats.connections(), compare_at: Instant::now(), failing: false }
    }

    async fn next(&mut self) -> bool {
        self.ticks.tick().await;
        // The client may now be connected to another server, which may have no state.
        let reconnected = self.connections.has_changed().unwrap_or(false);
        self.connections.mark_unchanged();
        let all = reconnected || Instant::now() >= self.compare_at;
        if all {
            self.compare_at = Instant::now() + FULL_RECONCILE_INTERVAL;
        }
        all
    }

    async fn finished(&mut self, result: Result<(), NatsError>) {
        let failing = result.is_err();
        if let Err(error) = result {
            metrics::counter!("annals_credential_reconcile_failures_total").increment(1);
            if self.failing {
                tracing::debug!(error = %Causes(&error), "integrators' credentials are not kept");
            } else {
                tracing::warn!(error = %Causes(&error), "integrators' credentials are not kept; trying on");
            }
            self.compare_at = Instant::now();
            tokio::time::sleep(RETRY_DELAY).await;
        }
        self.failing = failing;
    }
}
