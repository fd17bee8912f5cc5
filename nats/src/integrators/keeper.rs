//! The keeper: brings NATS in line with the registry of credentials, at once after a change and from time to time in any
//! case, because NATS may lose everything.

use std::path::PathBuf;
use std::time::Duration;

use store::{Causes, SharedWork, Store};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::Issuer;
use super::consumers::Consumers;
use super::system::{System, SystemError};
use crate::{Nats, NatsConfig, NatsError};

/// How often the registry is asked for changes: whoever issues a credential waits for it.
const POLL: Duration = Duration::from_millis(100);
/// How often everything is compared, places of integrators noted and suspended tenants found.
const COMPARE: Duration = Duration::from_secs(2);
/// Wait after a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// What the keeper needs besides the product's own connection.
pub struct KeeperConfig {
    /// The product's own way to NATS.
    pub nats: NatsConfig,
    /// The credentials file of a user of the system account.
    pub system_credentials: PathBuf,
    /// The seed of a key that signs accounts.
    pub operator_seed: String,
    /// Who signs for the integrators' account.
    pub issuer: Issuer,
}

/// Keeps until cancelled. Several keepers are harmless: one at a time pushes keys, consumers are shared out by tenant.
/// Outages are waited out.
pub async fn keep(
    store: Store,
    nats: Nats,
    config: KeeperConfig,
    cancel: CancellationToken,
) -> Result<(), SystemError> {
    let KeeperConfig { nats: application, system_credentials, operator_seed, issuer } = config;
    let system = System::connect(&application, &system_credentials, &operator_seed, issuer).await?;
    let mut consumers = Consumers::new(store.clone(), nats.clone(), store.share(SharedWork::Relay));
    tokio::select! {
        () = cancel.cancelled() => {}
        () = keep_keys(&store, &nats, &system) => {}
        () = keep_consumers(&store, &nats, &mut consumers) => {}
    }
    Ok(())
}

async fn keep_keys(store: &Store, nats: &Nats, system: &System) {
    let mut rounds = Rounds::new(nats);
    loop {
        let all = rounds.next().await;
        let done = async {
            if !all && !store.integrator_changes_due().await?.0 {
                return Ok(());
            }
            let Some(cut) = store.lock_cut_keys().await? else { return Ok(()) };
            system.keep_out(cut.keys()).await?;
            cut.applied().await?;
            Ok(())
        };
        rounds.ended(done.await).await;
    }
}

async fn keep_consumers(store: &Store, nats: &Nats, consumers: &mut Consumers) {
    let mut rounds = Rounds::new(nats);
    loop {
        let all = rounds.next().await;
        let done = async {
            if all || store.integrator_changes_due().await?.1 {
                consumers.keep(all).await?;
            }
            Ok(())
        };
        rounds.ended(done.await).await;
    }
}

/// When to look, and whether at changes only or at everything.
struct Rounds {
    ticks: tokio::time::Interval,
    connections: tokio::sync::watch::Receiver<u64>,
    compare_at: Instant,
    failing: bool,
}

impl Rounds {
    fn new(nats: &Nats) -> Self {
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, connections: nats.connections(), compare_at: Instant::now(), failing: false }
    }

    async fn next(&mut self) -> bool {
        self.ticks.tick().await;
        // The server may be another one than before, which knows nothing.
        let reconnected = self.connections.has_changed().unwrap_or(false);
        self.connections.mark_unchanged();
        let all = reconnected || Instant::now() >= self.compare_at;
        if all {
            self.compare_at = Instant::now() + COMPARE;
        }
        all
    }

    async fn ended(&mut self, result: Result<(), NatsError>) {
        let failing = result.is_err();
        if let Err(error) = result {
            metrics::counter!("annals_credential_reconcile_failures_total").increment(1);
            if self.failing {
                tracing::debug!(error = %Causes(&error), "integrators' credentials are not kept");
            } else {
                tracing::warn!(error = %Causes(&error), "integrators' credentials are not kept; trying on");
            }
            self.compare_at = Instant::now();
            tokio::time::sleep(PAUSE).await;
        }
        self.failing = failing;
    }
}
