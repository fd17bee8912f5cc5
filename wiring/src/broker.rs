//! Queries on NATS: lost events, signed checkpoints, erasures. Also the parts for the credentials of integrators.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use nats::integrators::ReconcilerConfig;
use nats::{Integrators, Issuer, Nats, NatsConfig, NatsError, NatsTls};
use privacy::DerivedCopies;
use schemas::engine::{TenantId, TenantSlug};
use store::{Replacement, Store, StoreError, Verification, Verifier};

use settings::{Settings, SettingsError};

/// Maximum attempts of the divergence check, and the pause between them.
const EXAMINATION_ATTEMPTS_MAX: u32 = 3;
const EXAMINATION_RETRY_DELAY: Duration = Duration::from_millis(250);
/// How long a query waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Compares the logs with JetStream over a connection of its own, because not every process has one. The store lives as
/// long as the process, so the verifier may own a handle to it.
pub(super) fn verifier(store: Store, config: NatsConfig) -> Verifier {
    Arc::new(move || {
        let (store, config) = (store.clone(), config.clone());
        async move {
            let nats = match connect_once(config).await {
                Ok(nats) => nats,
                Err(error) => return Verification::Impossible(error.to_string()),
            };
            let mut asked = 1;
            loop {
                match nats::relay::check_divergence(&store, &nats).await {
                    Ok(_) => return Verification::Done,
                    Err(NatsError::Store(error)) => return Verification::Failed(error.to_string()),
                    Err(error) if asked == EXAMINATION_ATTEMPTS_MAX => {
                        return Verification::Impossible(error.to_string());
                    }
                    Err(_) => tokio::time::sleep(EXAMINATION_RETRY_DELAY).await,
                }
                asked += 1;
            }
        }
        .boxed()
    })
}

/// Connects to NATS for an optional query.
async fn connect_once(config: NatsConfig) -> Result<Nats, NatsError> {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, Nats::connect(config)).await;
    connected.unwrap_or(Err(NatsError::Unreachable))
}

/// Adds to each log its known checkpoints: from the signer's folder, if this machine has it, and from JetStream. `slug`
/// names a tenant. Returns the errors of sources that could not be read.
pub async fn collect_checkpoints(
    settings: &Settings,
    logs: &mut [Replacement],
    slug: impl Fn(TenantId) -> Option<TenantSlug>,
) -> Vec<anyhow::Error> {
    let mut unknown = Vec::new();
    if let Some(folder) = &settings.audit.state_folder {
        for log in logs.iter_mut() {
            match audit::signer::last_signed_in(folder, log.log_id) {
                Ok(note) => log.checkpoints.extend(note),
                Err(error) => unknown.push(error.into()),
            }
        }
    }
    let asked = async {
        let nats = connect_once(nats_config(settings)).await?;
        nats::checkpoints::attach_checkpoints(&nats, logs, |log| slug(log.tenant)).await
    };
    unknown.extend(asked.await.err().map(anyhow::Error::from));
    unknown
}

/// Time limit for finding lost erasures in JetStream.
const LOST_ERASURES_TIMEOUT: Duration = Duration::from_secs(10);

/// Finds erasures in JetStream that the logs have lost. It uses a connection of its own, because a gateway has none.
pub(super) fn copies(store: Store, config: NatsConfig) -> DerivedCopies {
    Arc::new(move || {
        let (store, config) = (store.clone(), config.clone());
        async move {
            let unavailable = |reason: String| StoreError::Unavailable(reason);
            let nats = connect_once(config).await.map_err(|error| unavailable(error.to_string()))?;
            let looked =
                tokio::time::timeout(LOST_ERASURES_TIMEOUT, privacy::lost_erasures(&store, &nats)).await;
            match looked.map_err(|_| unavailable("JetStream takes too long".to_owned()))? {
                Err(NatsError::Store(error)) => Err(error),
                looked => looked.map_err(|error| unavailable(error.to_string())),
            }
        }
        .boxed()
    })
}

/// Connects to NATS. When the server does not answer, the connection retries in the background.
///
/// # Errors
/// When the settings of NATS are not valid, or when a server answers and cannot be used.
pub async fn connect_nats(settings: &Settings) -> anyhow::Result<Nats> {
    Nats::connect(nats_config(settings)).await.context("NATS cannot be used")
}

pub(super) fn nats_config(settings: &Settings) -> NatsConfig {
    NatsConfig {
        url: settings.nats.url.reveal().to_owned(),
        credentials_file: settings.nats.credentials_file.clone(),
        tls: NatsTls {
            ca_file: settings.nats.tls_ca_file.clone(),
            certificate_file: settings.nats.tls_certificate_file.clone(),
            key_file: settings.nats.tls_key_file.clone(),
        },
        replicas: settings.nats.replicas,
        allow_unauthenticated: settings.nats.allow_unauthenticated,
    }
}

/// The issuer of credentials for integrators. `None` when the settings have no account for them.
pub fn issuer(settings: &Settings) -> anyhow::Result<Option<Issuer>> {
    let nats = &settings.nats;
    let (Some(account), Some(seed)) = (&nats.edge_account, nats.edge_signing_seed()?) else {
        return Ok(None);
    };
    let servers = nats.public_url.as_deref().unwrap_or_else(|| nats.url.reveal());
    Ok(Some(Issuer::new(account, seed.reveal(), servers)?))
}

/// The credentials of integrators.
///
/// # Errors
/// The settings have no account for them.
pub fn integrators(settings: &Settings, store: &Store) -> anyhow::Result<Integrators> {
    let issuer = issuer(settings)?.ok_or(SettingsError::Missing("nats.edge_account"))?;
    Ok(Integrators::new(store.clone(), issuer))
}

/// The settings of the credential reconciler. `None` when this process does not have the keys for it.
pub(super) fn reconciler(settings: &Settings) -> anyhow::Result<Option<ReconcilerConfig>> {
    let nats = &settings.nats;
    let (Some(issuer), Some(operator), Some(system)) =
        (issuer(settings)?, nats.operator_signing_seed()?, nats.system_credentials_file.clone())
    else {
        return Ok(None);
    };
    let operator_seed = operator.reveal().to_owned();
    Ok(Some(ReconcilerConfig {
        nats: nats_config(settings),
        system_credentials: system,
        operator_seed,
        issuer,
    }))
}
