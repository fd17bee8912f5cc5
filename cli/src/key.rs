//! `annals key`: lists the root keys that wrap the encryption keys, rewraps them under another root key, and compares
//! them with the logs.

use std::sync::Arc;

use clap::Subcommand;
use keyring::{Epoch, KeyringError, RootKeyState};
use serde::Serialize;
use uuid::Uuid;

use super::progress::ProgressReporter;
use super::{operator_audit, projection};
use crate::failure::Failure;
use settings::{KEYS_FOLDER_SETTING, Settings, SettingsError};
use terminal::{Exit, Output};

/// `annals key ...`
#[derive(Debug, Subcommand)]
pub enum Key {
    /// List the root keys that the keys are wrapped under, and how many are under each
    Ls,
    /// Wrap all keys under `privacy.root_key`, while everything runs; `privacy.previous_root_key` is the one before it
    Rewrap,
    /// Compare the keys with all logs: events whose key is missing (exit code 9), and keys that no event names
    Check,
    /// Mark a key store as this deployment's although another one was in use: a copy from before the first mark, or a
    /// new one because the keys are lost
    Adopt,
}

#[derive(Serialize)]
struct RootKeyLine {
    epoch: i64,
    /// The first digits of its fingerprint.
    root: String,
    setting: &'static str,
    keys: u64,
}

impl From<Epoch> for RootKeyLine {
    fn from(epoch: Epoch) -> Self {
        let setting = match epoch.root_state {
            RootKeyState::Current => "privacy.root_key",
            RootKeyState::Previous => "privacy.previous_root_key",
            RootKeyState::Unknown => "",
        };
        Self { epoch: epoch.epoch, root: epoch.root, setting, keys: epoch.keys }
    }
}

const COLUMNS: [&str; 4] = ["epoch", "root", "setting", "keys"];

/// A problem that `check` found.
#[derive(Serialize)]
struct KeyCheckLine {
    tenant: String,
    problem: &'static str,
    subject: Uuid,
    key: Uuid,
    /// The first event that cannot be read, and its stream. For a key without events, the stream that it was created
    /// for.
    position: Option<u64>,
    stream: String,
}

const CHECK_COLUMNS: [&str; 6] = ["tenant", "problem", "subject", "key", "position", "stream"];

impl Key {
    /// Runs it. `ls` and `rewrap` need only the key store.
    pub async fn run(self, settings: &Settings, output: Output) -> Result<Exit, Failure> {
        let (store, roots) = wiring::keys(settings)?.ok_or(SettingsError::Missing(KEYS_FOLDER_SETTING))?;
        match self {
            Self::Ls => {}
            Self::Rewrap => {
                let bar = Arc::new(ProgressReporter::with_unit("keys", "keys", 0));
                let shown = Arc::clone(&bar);
                let rewrapping = store.rewrap(&roots, move |done, total| {
                    shown.set_total(total);
                    shown.at(done);
                });
                let rewrapped = rewrapping.await;
                bar.end();
                let rewrapped = rewrapped.map_err(anyhow::Error::from)?;
                eprintln!("{} keys were wrapped anew; all are of epoch {}", rewrapped.keys, rewrapped.epoch);
            }
            Self::Check => return check(settings, output).await,
            Self::Adopt => return adopt(settings).await,
        }
        let epochs: Result<_, KeyringError> = store.epochs(&roots).await;
        let epochs: Vec<Epoch> = epochs.map_err(anyhow::Error::from)?.unwrap_or_default();
        let rows: Vec<RootKeyLine> = epochs.into_iter().map(RootKeyLine::from).collect();
        output.rows(&COLUMNS, &rows)?;
        Ok(if rows.iter().all(|row| !row.setting.is_empty()) { Exit::Ok } else { Exit::CheckFailed })
    }
}

async fn check(settings: &Settings, output: Output) -> Result<Exit, Failure> {
    let store = wiring::connect(settings).await?;
    let tenants = store.heads().await?;
    operator_audit::record_access(&store, tenants.iter().map(|head| head.tenant)).await?;
    let compared = privacy::compare_keys(&store, |_| true).await;
    let slugs = projection::slugs(&store, tenants.iter().map(|head| head.tenant)).await?;
    store.shutdown().await;
    let compared = compared?;
    let name = |tenant| slugs.get(&tenant).map_or_else(|| tenant.to_string(), ToString::to_string);
    let missing = compared.missing.iter().map(|(tenant, event)| KeyCheckLine {
        tenant: name(*tenant),
        problem: "missing",
        subject: event.subject,
        key: event.key,
        position: Some(event.position),
        stream: event.stream.clone(),
    });
    let unused = compared.unused.iter().map(|key| KeyCheckLine {
        tenant: name(key.tenant),
        problem: "unused",
        subject: key.subject,
        key: key.key,
        position: None,
        stream: key.streams.first().map(ToString::to_string).unwrap_or_default(),
    });
    let found: Vec<KeyCheckLine> = missing.chain(unused).collect();
    output.rows(&CHECK_COLUMNS, &found)?;
    eprintln!("{} keys are missing, {} are unused", compared.missing_count, compared.unused_count);
    Ok(if compared.missing_count == 0 { Exit::Ok } else { Exit::CheckFailed })
}

async fn adopt(settings: &Settings) -> Result<Exit, Failure> {
    let keyring = wiring::keyring(settings).await?;
    let keyring = keyring.ok_or(SettingsError::Missing(KEYS_FOLDER_SETTING))?;
    let store = wiring::connect_with(settings, None).await?;
    let adopted = store.adopt_keys(&keyring).await;
    store.shutdown().await;
    if adopted? {
        eprintln!("the store of keys is this deployment's");
        return Ok(Exit::Ok);
    }
    Err(Failure::new(Exit::Conflict, anyhow::anyhow!("the store of keys is another deployment's")))
}

/// The state of the keys before a process starts with these settings: their number, or why the process could not use
/// them.
pub async fn root_key_status(settings: &Settings) -> Result<String, Failure> {
    let Some((store, roots)) = wiring::keys(settings)? else { return Ok("no place is set".to_owned()) };
    let epochs = store.epochs(&roots).await.map_err(anyhow::Error::from)?.unwrap_or_default();
    if let Some(epoch) = epochs.iter().find(|epoch| epoch.root_state == RootKeyState::Unknown) {
        return Err(Failure::usage(anyhow::anyhow!(
            "{} keys are wrapped under the root key {}, which is neither `privacy.root_key` nor `privacy.previous_root_key`",
            epoch.keys,
            epoch.root
        )));
    }
    let count = |standing| -> u64 {
        epochs.iter().filter(|epoch| epoch.root_state == standing).map(|epoch| epoch.keys).sum()
    };
    let (current, previous) = (count(RootKeyState::Current), count(RootKeyState::Previous));
    Ok(if epochs.iter().any(|epoch| epoch.root_state == RootKeyState::Previous) {
        format!("{current} keys, and {previous} under the previous root key: run `annals key rewrap`")
    } else {
        format!("{current} keys")
    })
}
