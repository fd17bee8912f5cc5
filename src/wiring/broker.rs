//! What is asked of NATS besides following it: which events the database has lost, what was signed, who was erased. And the
//! parts that the accounts of integrators need.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use nats::integrators::KeeperConfig;
use nats::{Integrators, Issuer, Nats, NatsConfig, NatsError, NatsTls};
use sagas::erasure::Copies;
use schemas::engine::{TenantId, TenantSlug};
use store::{Examination, Examiner, Replacement, Store, StoreError};

use crate::config::{Settings, SettingsError};

/// How often the examination asks JetStream, and the pause in between.
const ASKS: u32 = 3;
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// How long it waits for a connection.
const ASK_PATIENCE: Duration = Duration::from_millis(1_500);

/// Compares the logs with JetStream, over a connection of its own: not every process has one. The store lives as long as
/// the process, so the examiner may hold it.
pub(super) fn examiner(store: Store, config: NatsConfig) -> Examiner {
    Arc::new(move || {
        let (store, config) = (store.clone(), config.clone());
        async move {
            let nats = match ask(config).await {
                Ok(nats) => nats,
                Err(error) => return Examination::Impossible(error.to_string()),
            };
            let mut asked = 1;
            loop {
                match nats::relay::examine(&store, &nats).await {
                    Ok(_) => return Examination::Done,
                    Err(NatsError::Store(error)) => return Examination::Failed(error.to_string()),
                    Err(error) if asked == ASKS => return Examination::Impossible(error.to_string()),
                    Err(_) => tokio::time::sleep(ASK_AGAIN).await,
                }
                asked += 1;
            }
        }
        .boxed()
    })
}

/// Connects to NATS for a question that can do without an answer.
async fn ask(config: NatsConfig) -> Result<Nats, NatsError> {
    let connected = tokio::time::timeout(ASK_PATIENCE, Nats::connect(config)).await;
    connected.unwrap_or(Err(NatsError::Unreachable))
}

/// Gives each log the signed checkpoints of it that the signer's folder, where this machine has it, and JetStream know.
/// Returns what could not be asked.
pub async fn know_checkpoints(
    settings: &Settings,
    logs: &mut [Replacement],
    slugs: &HashMap<TenantId, TenantSlug>,
) -> Vec<anyhow::Error> {
    let mut unknown = Vec::new();
    if let Some(folder) = &settings.audit.state_folder {
        for log in logs.iter_mut() {
            match audit::signer::remembered_in(folder, log.log_id) {
                Ok(note) => log.checkpoints.extend(note),
                Err(error) => unknown.push(error.into()),
            }
        }
    }
    let asked = async {
        let nats = ask(nats_config(settings)).await?;
        nats::checkpoints::cite(&nats, logs, |log| slugs.get(&log.tenant).cloned()).await
    };
    unknown.extend(asked.await.err().map(anyhow::Error::from));
    unknown
}

/// How long a look at JetStream for lost erasures may take.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);

/// Asks JetStream for erasures that the logs have lost, over a connection of its own: a gateway has none.
pub(super) fn copies(store: Store, config: NatsConfig) -> Copies {
    Arc::new(move || {
        let (store, config) = (store.clone(), config.clone());
        async move {
            let unavailable = |reason: String| StoreError::Unavailable(reason);
            let nats = ask(config).await.map_err(|error| unavailable(error.to_string()))?;
            let looked = tokio::time::timeout(LOOK_PATIENCE, nats::lost_erasures(&store, &nats)).await;
            match looked.map_err(|_| unavailable("JetStream takes too long".to_owned()))? {
                Err(NatsError::Store(error)) => Err(error),
                looked => looked.map_err(|error| unavailable(error.to_string())),
            }
        }
        .boxed()
    })
}

/// Connects to NATS; where nothing answers the connection goes on trying.
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

/// Who issues credentials for integrators, where the settings have an account for them.
pub fn issuer(settings: &Settings) -> anyhow::Result<Option<Issuer>> {
    let nats = &settings.nats;
    let (Some(account), Some(seed)) = (&nats.edge_account, nats.edge_signing_seed()?) else {
        return Ok(None);
    };
    let servers = nats.public_url.as_deref().unwrap_or_else(|| nats.url.reveal());
    Ok(Some(Issuer::new(account, seed.reveal(), servers)?))
}

/// The credentials of integrators; an error where the settings have no account for them.
pub fn integrators(settings: &Settings, store: &Store) -> anyhow::Result<Integrators> {
    let issuer = issuer(settings)?.ok_or(SettingsError::Missing("nats.edge_account"))?;
    Ok(Integrators::new(store.clone(), issuer))
}

/// What keeps NATS in line with the registry of credentials, where this process has the keys for it.
pub(super) fn keeper(settings: &Settings) -> anyhow::Result<Option<KeeperConfig>> {
    let nats = &settings.nats;
    let (Some(issuer), Some(operator), Some(system)) =
        (issuer(settings)?, nats.operator_signing_seed()?, nats.system_credentials_file.clone())
    else {
        return Ok(None);
    };
    let operator_seed = operator.reveal().to_owned();
    Ok(Some(KeeperConfig { nats: nats_config(settings), system_credentials: system, operator_seed, issuer }))
}
