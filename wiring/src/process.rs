//! A process that is connected and prepared.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use commands::Executor;
use devserver::demo::{self, Suspended};
use gateway::{Gateway, Operations, ReadinessCheck};
use nats::Nats;
use settings::{KEYS_FOLDER_SETTING, Settings, SettingsError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::broker::{connect_nats, copies, issuer, nats_config, reconciler};
use super::database::{connect, executor};
use super::keys::signing_key;
use super::listeners::{Addresses, Listener, Listeners};
use super::parts::{gateway_config, saga_settings, signer, webhook_settings};
use super::roles::{ProcessRole, Start, entries};
use super::starting::{Parts, Running, Starting};

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

impl Prepared {
    /// Binds the listeners and connects to the servers that the roles need.
    ///
    /// # Errors
    /// When an address cannot be bound, a setting is missing or not valid, or PostgreSQL, the key store, a NATS that is
    /// needed or the signer's folder cannot be used. Also when the database does not pass its verification, or when
    /// other machines could sign in to the demo tenant with its public password.
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
    ///
    /// # Errors
    /// When the gateway cannot make sure of earlier erasures before it serves.
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
