//! Connects all crates: builds their parts from the settings and runs the roles.

mod broker;
mod keys;
pub mod limits;
mod listeners;
mod parts;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use audit::Signer;
use clap::ValueEnum;
use commands::Executor;
use database::DatabaseConfig;
use gateway::{Gateway, Operations, ReadinessCheck};
use keyring::Keyring;
use nats::integrators::{ReconcilerConfig, reconcile};
use nats::{Nats, StreamConsumer};
use sagas::SagaSettings;
use sagas::erasure::DerivedCopies;
use store::feed::FeedSettings;
use store::{DeploymentKey, OwnerConfig, Store, StoreConfig, Workload};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use webhooks::WebhookSettings;

pub use self::broker::{collect_checkpoints, connect_nats, integrators};
use self::broker::{copies, issuer, nats_config, reconciler, verifier};
use self::keys::signing_key;
pub use self::keys::{keyring, keys, malformed_keys, passwords};
pub use self::listeners::Addresses;
use self::listeners::{Listener, Listeners};
use self::parts::{gateway_config, saga_settings, signer, webhook_settings};
use devserver::demo::{self, Suspended};
use settings::{KEYS_FOLDER_SETTING, RequiredSettings, Settings, SettingsError};

/// Maximum aggregates that the executor caches.
const CACHED_AGGREGATES_MAX: u64 = 100_000;

/// Migrates the database to the present version.
pub async fn migrate(settings: &Settings) -> anyhow::Result<()> {
    if let Some(keys) = &settings.privacy.key_database()? {
        let owner = settings.privacy.keys_owner()?;
        keyring::migrate(keys, &owner).await.context("the database of keys cannot be brought up to date")?;
    }
    let runtime_password = settings.database.runtime_password()?;
    store::migrate::run(&owner(settings)?, runtime_password.reveal(), &projections::tables())
        .await
        .context("the database cannot be brought up to date")
}

/// Rewrites the tables of read models, so that no old row versions remain. `written` gets the name of each table.
pub async fn compact(settings: &Settings, written: impl FnMut(&str)) -> anyhow::Result<()> {
    store::migrate::compact(&owner(settings)?, &projections::tables(), written)
        .await
        .context("the read models cannot be written anew")
}

fn owner(settings: &Settings) -> anyhow::Result<OwnerConfig> {
    let database = &settings.database;
    Ok(OwnerConfig {
        host: database.host.clone(),
        port: database.port,
        database: database.name.clone(),
        user: database.owner_user.clone(),
        password: database.owner_password()?.reveal().to_owned(),
        tls: database.tls()?,
    })
}

/// The login of the role `annals_worker`, for queries that need no store.
pub fn worker_login(settings: &Settings) -> anyhow::Result<DatabaseConfig> {
    let (database, user) = (&settings.database, "annals_worker");
    let password = store::role_password(database.runtime_password()?.reveal(), user);
    Ok(DatabaseConfig {
        host: database.host.clone(),
        port: database.port,
        name: database.name.clone(),
        user: user.to_owned(),
        password: password.into(),
        application_name: user.to_owned(),
        options: String::new(),
        tls: database.tls()?,
    })
}

/// Maximum connections to PostgreSQL of a process with these roles.
pub fn connections_max(settings: &Settings, roles: &[ProcessRole]) -> usize {
    let (pool, lanes) = (settings.database.pool_size, settings.database.append_workers);
    let limits = store::connection_limits(pool, lanes).into_iter();
    let used = limits.filter(|(login, _)| roles.iter().any(|role| role.logins().contains(login)));
    used.map(|(_, limit)| limit).sum()
}

/// Connects to the store.
pub async fn connect(settings: &Settings) -> anyhow::Result<Store> {
    connect_with(settings, keyring(settings).await?).await
}

/// Connects to the store with these encryption keys. Without keys, personal data stays encrypted.
pub async fn connect_with(settings: &Settings, keyring: Option<Keyring>) -> anyhow::Result<Store> {
    let database = &settings.database;
    let config = StoreConfig {
        host: database.host.clone(),
        port: database.port,
        database: database.name.clone(),
        tls: database.tls()?,
        runtime_password: database.runtime_password()?.reveal().to_owned(),
        key: DeploymentKey::from_hex(settings.secrets.deployment_key()?.reveal())?,
        keyring,
        append_workers: database.append_workers,
        pool_size: database.pool_size,
        idle_timeout: Duration::from_secs(database.idle_timeout_seconds),
    };
    let store = Store::connect(config).await.context("the store cannot be used")?;
    store.set_verifier(verifier(store.clone(), nats_config(settings)));
    Ok(store)
}

/// The executor of commands.
pub fn executor(store: &Store) -> Executor {
    Executor::new(store.clone(), CACHED_AGGREGATES_MAX)
}

/// A role that a process can play.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProcessRole {
    /// The public and the admin listener
    Gateway,
    /// Publishes committed events on JetStream
    Relay,
    /// Keeps the read models
    Projections,
    /// Turns events into commands
    Sagas,
    /// Extends the Merkle logs and signs checkpoints
    Sealer,
    /// Delivers events to tenants' endpoints
    Webhooks,
}

impl ProcessRole {
    /// Every role.
    pub const ALL: [Self; 6] =
        [Self::Gateway, Self::Relay, Self::Projections, Self::Sagas, Self::Sealer, Self::Webhooks];

    /// The database roles that it logs in as. Every process needs `annals_relay`, because it compares the logs with
    /// JetStream at its start.
    fn logins(self) -> &'static [&'static str] {
        match self {
            Self::Gateway | Self::Sagas => &[
                "annals_worker",
                "annals_relay",
                "annals_tenant",
                "annals_projector",
                "annals_appender",
                "annals_lookup",
            ],
            Self::Projections | Self::Webhooks => {
                &["annals_worker", "annals_relay", "annals_tenant", "annals_projector"]
            }
            Self::Relay => &["annals_worker", "annals_relay"],
            Self::Sealer => &["annals_worker", "annals_relay", "annals_sealer"],
        }
    }

    /// The settings that a process with these roles needs.
    pub fn required_settings(roles: &[Self]) -> RequiredSettings {
        let has_role = |role: Self| roles.contains(&role);
        RequiredSettings {
            tokens: has_role(Self::Gateway),
            checkpoints: has_role(Self::Sealer),
            personal_data: [Self::Gateway, Self::Projections, Self::Sagas, Self::Webhooks]
                .into_iter()
                .any(has_role),
        }
    }

    /// The names of the roles, for a log line.
    pub fn list(roles: &[Self]) -> String {
        let names = roles.iter().filter_map(|role| Some(role.to_possible_value()?.get_name().to_owned()));
        names.collect::<Vec<_>>().join(",")
    }
}

/// A process that is connected and has bound its listeners, but runs no role yet. So no request is answered before
/// everything is ready.
pub struct Prepared {
    store: Store,
    executor: Executor,
    gateway: Option<Gateway>,
    operations: Operations,
    nats: Option<Nats>,
    copies: DerivedCopies,
    reconciler: Option<ReconcilerConfig>,
    listeners: Listeners,
    roles: Vec<ProcessRole>,
    sagas: SagaSettings,
    signer: Option<Arc<Signer>>,
    seal_interval: Duration,
    webhooks: WebhookSettings,
    stop_listeners: CancellationToken,
}

impl Prepared {
    /// Binds the listeners and connects to the servers that the roles need.
    pub async fn connect(settings: &Settings, roles: &[ProcessRole]) -> anyhow::Result<Self> {
        // Install the recorder before the first metric is counted.
        gateway::operations::recorder()?;
        let open_files_max = crate::limits::raise_open_files(settings.gateway.max_streams);
        let listeners =
            Listeners::bind(settings, roles.contains(&ProcessRole::Gateway), open_files_max).await?;
        let store = connect(settings).await?;
        if ProcessRole::required_settings(roles).personal_data && store.keyring().is_none() {
            return Err(SettingsError::Missing(KEYS_FOLDER_SETTING).into());
        }
        let executor = executor(&store);
        let follows = roles.iter().any(|role| !matches!(role, ProcessRole::Gateway | ProcessRole::Webhooks));
        let nats = if follows { Some(connect_nats(settings).await?) } else { None };
        // Check before anything is served or followed: the database may have been restored to an earlier state.
        store.wait_until_verified().await.context("the database cannot be examined")?;
        if settings.nats.allow_unauthenticated {
            tracing::warn!("nats.allow_unauthenticated is set, which is for development only");
        }
        let reconciler = reconciler(settings)?;
        if roles.contains(&ProcessRole::Relay) && reconciler.is_none() && settings.nats.edge_account.is_some()
        {
            tracing::warn!(
                "this process has no operator's key: another one must keep integrators' credentials"
            );
        }
        if let Some(origin) =
            settings.gateway.loopback_origin().filter(|_| roles.contains(&ProcessRole::Gateway))
        {
            tracing::warn!(
                origin,
                "pages on the visitor's own machine may use this gateway: set gateway.cors_allowed_origins"
            );
        }
        let stop_listeners = CancellationToken::new();
        let checks = nats.iter().map(nats_readiness_check).collect();
        let operations = Operations::new(store.clone(), checks, stop_listeners.clone())?;
        let gateway = if roles.contains(&ProcessRole::Gateway) {
            Some(start_gateway(settings, &executor, stop_listeners.clone()).await?)
        } else {
            None
        };
        let signer =
            if roles.contains(&ProcessRole::Sealer) { Some(Arc::new(signer(settings)?)) } else { None };
        Ok(Self {
            copies: copies(store.clone(), nats_config(settings)),
            store,
            executor,
            gateway,
            operations,
            nats,
            reconciler,
            listeners,
            roles: roles.to_vec(),
            sagas: saga_settings(settings),
            webhooks: webhook_settings(settings),
            signer,
            seal_interval: Duration::from_secs(settings.audit.seal_interval_seconds),
            stop_listeners,
        })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The executor of commands.
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// The gateway, if the process has this role. It issues tokens and hashes passwords.
    pub fn gateway(&self) -> Option<&Gateway> {
        self.gateway.as_ref()
    }

    /// Starts the roles, the listeners last.
    pub async fn start(mut self) -> anyhow::Result<Running> {
        let mut running = Running {
            addresses: self.listeners.addresses()?,
            store: self.store.clone(),
            gateway: self.gateway.clone(),
            stop_listeners: self.stop_listeners.clone(),
            stop_workers: CancellationToken::new(),
            listeners: JoinSet::new(),
            workers: JoinSet::new(),
        };
        if let Some(nats) = self.nats.take() {
            self.start_workers(&nats, &mut running);
        }
        if self.roles.contains(&ProcessRole::Webhooks) {
            self.start_webhooks(&mut running);
        }
        if let Some(keyring) = self.store.keyring().filter(|_| self.roles.contains(&ProcessRole::Gateway)) {
            // Repeat the erasures that a restore has undone before read models are served.
            let reapplied = sagas::erasure::reapply(&self.executor, keyring, &self.copies).await;
            reapplied.context("earlier erasures cannot be made sure of")?;
        }
        self.start_listeners(&mut running);
        Ok(running)
    }

    fn start_workers(&mut self, nats: &Nats, running: &mut Running) {
        let roles = self.roles.clone();
        let has_role = |role: ProcessRole| roles.contains(&role);
        let shared = [
            (ProcessRole::Relay, Workload::Relay),
            (ProcessRole::Projections, Workload::Projections),
            (ProcessRole::Sagas, Workload::Sagas),
            (ProcessRole::Sealer, Workload::Sealer),
        ];
        for (_, work) in shared.into_iter().filter(|(role, _)| has_role(*role)) {
            let (assignment, stop) = (self.store.tenant_assignment(work), running.stop_workers.clone());
            running.workers.spawn(async move {
                assignment.maintain_membership(stop).await;
                Ok(())
            });
        }
        if has_role(ProcessRole::Projections) || has_role(ProcessRole::Sagas) {
            let follower =
                StreamConsumer::start(self.store.clone(), nats.clone(), running.stop_workers.clone());
            if has_role(ProcessRole::Projections) {
                let (follower, store) = (follower.clone(), self.store.clone());
                let stop = running.stop_workers.clone();
                running.workers.spawn(async move {
                    let settings =
                        FeedSettings { workload: Some(Workload::Projections), ..FeedSettings::default() };
                    projections::run_all(store, || follower.batches(), settings, stop).await;
                    Ok(())
                });
            }
            if has_role(ProcessRole::Sagas) {
                if let Some(keyring) = self.store.keyring().cloned() {
                    let (executor, follower) = (self.executor.clone(), follower.clone());
                    let copies = Arc::clone(&self.copies);
                    let read_models = projections::CHECKPOINTS.iter().map(ToString::to_string).collect();
                    let stop = running.stop_workers.clone();
                    running.workers.spawn(async move {
                        sagas::erasure::run(executor, keyring, read_models, copies, follower.batches(), stop)
                            .await;
                        Ok(())
                    });
                }
                let (executor, settings) = (self.executor.clone(), self.sagas);
                let stop = running.stop_workers.clone();
                running.workers.spawn(async move {
                    let followed = move || follower.batches();
                    sagas::run(executor, sagas::processes(), followed, settings, stop)
                        .await
                        .context("the role sagas")
                });
            }
        }
        if let Some(signer) = &self.signer {
            let (store, nats, signer) = (self.store.clone(), nats.clone(), Arc::clone(signer));
            let (seal_interval, stop) = (self.seal_interval, running.stop_workers.clone());
            running.workers.spawn(async move {
                audit::sealer::run(store, Some(nats), signer, seal_interval, stop).await;
                Ok(())
            });
        }
        if has_role(ProcessRole::Relay) {
            let (store, nats, stop) = (self.store.clone(), nats.clone(), running.stop_workers.clone());
            running
                .workers
                .spawn(async move { nats::relay::run(store, nats, stop).await.context("the role relay") });
        }
        if let Some(reconciler) = self.reconciler.take().filter(|_| has_role(ProcessRole::Relay)) {
            let (store, nats, stop) = (self.store.clone(), nats.clone(), running.stop_workers.clone());
            running.workers.spawn(async move {
                reconcile(store, nats, reconciler, stop)
                    .await
                    .context("the keeper of integrators' credentials")
            });
        }
    }

    fn start_webhooks(&self, running: &mut Running) {
        let (assignment, stop) =
            (self.store.tenant_assignment(Workload::Webhooks), running.stop_workers.clone());
        running.workers.spawn(async move {
            assignment.maintain_membership(stop).await;
            Ok(())
        });
        let (store, settings, stop) = (self.store.clone(), self.webhooks, running.stop_workers.clone());
        running
            .workers
            .spawn(async move { webhooks::run(store, settings, stop).await.context("the role webhooks") });
    }

    fn start_listeners(self, running: &mut Running) {
        let gateway = self.gateway.as_ref();
        let served = [
            self.listeners.public.zip(gateway.map(Gateway::public_router)),
            Some((self.listeners.operations, self.operations.router())),
            self.listeners.admin.zip(gateway.map(Gateway::admin_router)),
        ];
        for (Listener { socket, settings }, router) in served.into_iter().flatten() {
            let stop = self.stop_listeners.clone();
            running.listeners.spawn(async move {
                gateway::serve(socket, router, settings, stop).await;
                Ok(())
            });
        }
    }
}

/// Running roles. Every process has the operations listener.
pub struct Running {
    store: Store,
    gateway: Option<Gateway>,
    addresses: Addresses,
    /// Cancelled first, so that no new request arrives while the rest stops.
    stop_listeners: CancellationToken,
    stop_workers: CancellationToken,
    listeners: JoinSet<anyhow::Result<()>>,
    workers: JoinSet<anyhow::Result<()>>,
}

impl Running {
    /// The addresses of the listeners.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Waits until a part fails. No part ends by itself.
    pub async fn failed(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            Some(ended) = self.listeners.join_next() => ended,
            Some(ended) = self.workers.join_next() => ended,
            else => std::future::pending().await,
        };
        match ended {
            Ok(Ok(())) => anyhow::anyhow!("a part of the product ended without being asked to"),
            Ok(Err(error)) => error,
            Err(error) => anyhow::Error::from(error).context("a part of the product failed"),
        }
    }

    /// Stops the listeners after their requests are answered, then the workers, then the store.
    pub async fn stop(&mut self) {
        self.stop_listeners.cancel();
        while self.listeners.join_next().await.is_some() {}
        // After the last response, so that its activity is written too.
        if let Some(gateway) = &self.gateway {
            gateway.finish().await;
        }
        self.stop_workers.cancel();
        while self.workers.join_next().await.is_some() {}
        self.store.shutdown().await;
    }
}

/// Starts the gateway. It refuses to listen to other machines when the demo tenant's administrator has the public
/// password.
async fn start_gateway(
    settings: &Settings,
    executor: &Executor,
    stopping: CancellationToken,
) -> anyhow::Result<Gateway> {
    let config = gateway_config(settings, issuer(settings)?);
    let gateway = Gateway::new(config, signing_key(settings)?, executor.clone(), stopping)?;
    let exposed = demo::is_exposed(settings.gateway.public_address);
    if exposed && demo::known_password(executor, gateway.passwords()).await? == Some(Suspended(false)) {
        let problem = demo::KNOWN_PASSWORD_PROBLEM.to_owned();
        return Err(SettingsError::Invalid { key: "gateway.public_address", problem }.into());
    }
    Ok(gateway)
}

fn nats_readiness_check(nats: &Nats) -> ReadinessCheck {
    let nats = nats.clone();
    ReadinessCheck { name: "nats", check: Arc::new(move || nats.is_connected()) }
}
