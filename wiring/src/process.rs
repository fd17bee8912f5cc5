//! A process: connected and prepared, then with running roles.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use audit::Signer;
use axum::Router;
use commands::Executor;
use devserver::demo::{self, Suspended};
use gateway::{Gateway, Operations, ReadinessCheck};
use nats::integrators::ReconcilerConfig;
use nats::{Nats, StreamConsumer};
use privacy::DerivedCopies;
use sagas::SagaSettings;
use settings::{KEYS_FOLDER_SETTING, Settings, SettingsError};
use store::Store;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use webhooks::WebhookSettings;

use super::broker::{connect_nats, copies, issuer, nats_config, reconciler};
use super::database::{connect, executor};
use super::keys::signing_key;
use super::listeners::{Addresses, Listener, Listeners};
use super::parts::{gateway_config, saga_settings, signer, webhook_settings};
use super::roles::{ProcessRole, Start, entries};

/// A process that is connected and has bound its listeners, but runs no role yet. So no request is answered before
/// everything is ready.
pub struct Prepared {
    roles: Vec<ProcessRole>,
    parts: Parts,
    operations: Operations,
    operations_listener: Listener,
    addresses: Addresses,
    stop_listeners: CancellationToken,
}

/// What the workers of roles are made of.
pub(super) struct Parts {
    pub store: Store,
    pub executor: Executor,
    pub nats: Option<Nats>,
    /// The reader of JetStream that projections and sagas share.
    pub consumer: Option<StreamConsumer>,
    pub copies: DerivedCopies,
    pub reconciler: Option<ReconcilerConfig>,
    pub gateway: Option<Gateway>,
    pub public_listener: Option<Listener>,
    pub admin_listener: Option<Listener>,
    pub signer: Option<Arc<Signer>>,
    pub seal_interval: Duration,
    pub sagas: SagaSettings,
    pub webhooks: WebhookSettings,
}

impl Prepared {
    /// Binds the listeners and connects to the servers that the roles need.
    pub async fn connect(settings: &Settings, roles: &[ProcessRole]) -> anyhow::Result<Self> {
        // Install the recorder before the first metric is counted.
        gateway::operations::recorder()?;
        let open_files_max = super::limits::raise_open_files(settings.gateway.max_streams);
        let is_gateway = roles.contains(&ProcessRole::Gateway);
        let listeners = Listeners::bind(settings, is_gateway, open_files_max).await?;
        let store = connect(settings).await?;
        let required = ProcessRole::required_settings(roles);
        if required.personal_data && store.keyring().is_none() {
            return Err(SettingsError::Missing(KEYS_FOLDER_SETTING).into());
        }
        let executor = executor(&store);
        let nats = if ProcessRole::need_nats(roles) { Some(connect_nats(settings).await?) } else { None };
        // Check before anything is served or followed: the database may have been restored to an earlier state.
        store.wait_until_verified().await.context("the database cannot be examined")?;
        let reconciler = reconciler(settings)?;
        warn_of_settings(settings, roles, reconciler.is_some());
        let stop_listeners = CancellationToken::new();
        let checks = nats.iter().map(nats_readiness_check).collect();
        let operations = Operations::new(store.clone(), checks, stop_listeners.clone())?;
        let gateway = if is_gateway {
            Some(build_gateway(settings, &executor, stop_listeners.clone()).await?)
        } else {
            None
        };
        let signer = if required.checkpoints { Some(Arc::new(signer(settings)?)) } else { None };
        let addresses = listeners.addresses()?;
        let Listeners { public, operations: operations_listener, admin } = listeners;
        let parts = Parts {
            copies: copies(store.clone(), nats_config(settings)),
            store,
            executor,
            nats,
            consumer: None,
            reconciler,
            gateway,
            public_listener: public,
            admin_listener: admin,
            signer,
            seal_interval: Duration::from_secs(settings.audit.seal_interval_seconds),
            sagas: saga_settings(settings),
            webhooks: webhook_settings(settings),
        };
        let roles = roles.to_vec();
        Ok(Self { roles, parts, operations, operations_listener, addresses, stop_listeners })
    }

    /// The executor of commands.
    pub fn executor(&self) -> &Executor {
        &self.parts.executor
    }

    /// The gateway, if the process has this role. It issues tokens and hashes passwords.
    pub fn gateway(&self) -> Option<&Gateway> {
        self.parts.gateway.as_ref()
    }

    /// Starts the roles, the listeners last.
    pub async fn start(self) -> anyhow::Result<Running> {
        let running = Running {
            addresses: self.addresses,
            store: self.parts.store.clone(),
            gateway: self.parts.gateway.clone(),
            stop_listeners: self.stop_listeners,
            stop_workers: CancellationToken::new(),
            listeners: JoinSet::new(),
            workers: JoinSet::new(),
        };
        let mut process = Starting { parts: self.parts, running };
        for entry in entries(&self.roles).rev() {
            if let Some(workload) = entry.workload {
                let (assignment, stop) = (process.parts.store.tenant_assignment(workload), process.stop());
                process.spawn(async move {
                    assignment.maintain_membership(stop).await;
                    Ok(())
                });
            }
            match entry.start {
                Start::Workers(start) => start(&mut process),
                Start::Listeners(start) => start(&mut process).await?,
            }
        }
        process.serve(self.operations_listener, self.operations.router());
        Ok(process.running)
    }
}

/// A process whose roles are being started.
pub(super) struct Starting {
    pub parts: Parts,
    running: Running,
}

impl Starting {
    /// Runs a worker. No worker ends by itself.
    pub fn spawn(&mut self, worker: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.running.workers.spawn(worker);
    }

    /// Serves a listener.
    pub fn serve(&mut self, Listener { socket, settings }: Listener, router: Router) {
        let stop = self.running.stop_listeners.clone();
        self.running.listeners.spawn(async move {
            gateway::serve(socket, router, settings, stop).await;
            Ok(())
        });
    }

    /// Cancelled when the workers have to stop.
    pub fn stop(&self) -> CancellationToken {
        self.running.stop_workers.clone()
    }

    /// The connection to NATS, for a role whose entry says that it needs one.
    pub fn nats(&self) -> Nats {
        self.parts.nats.clone().expect("the table says which roles need NATS")
    }

    /// The reader of JetStream. The first role that needs it starts it.
    pub fn stream_consumer(&mut self) -> StreamConsumer {
        let (store, nats, stop) = (self.parts.store.clone(), self.nats(), self.stop());
        self.parts.consumer.get_or_insert_with(|| StreamConsumer::start(store, nats, stop)).clone()
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

/// Logs what a process with these roles should better not have.
fn warn_of_settings(settings: &Settings, roles: &[ProcessRole], has_reconciler: bool) {
    if settings.nats.allow_unauthenticated {
        tracing::warn!("nats.allow_unauthenticated is set, which is for development only");
    }
    if roles.contains(&ProcessRole::Relay) && !has_reconciler && settings.nats.edge_account.is_some() {
        tracing::warn!("this process has no operator's key: another one must keep integrators' credentials");
    }
    let origin = settings.gateway.loopback_origin();
    if let Some(origin) = origin.filter(|_| roles.contains(&ProcessRole::Gateway)) {
        tracing::warn!(
            origin,
            "pages on the visitor's own machine may use this gateway: set gateway.cors_allowed_origins"
        );
    }
}

/// Builds the gateway. It refuses to listen to other machines when the demo tenant's administrator has the public
/// password.
async fn build_gateway(
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
