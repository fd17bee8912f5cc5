//! `annals key`: under which root key the keys of personal data are wrapped, and wrapping them under another one.

use clap::Subcommand;
use keyring::{Epoch, KeyringError, RootStanding};
use serde::Serialize;

use super::progress::Bar;
use super::{Exit, Failure, Output};
use crate::config::{Settings, SettingsError};
use crate::wiring;

/// `annals key ...`
#[derive(Debug, Subcommand)]
pub enum Key {
    /// List the root keys that the keys are wrapped under, and how many are under each
    Ls,
    /// Wrap all keys under `privacy.root_key`, while everything runs; `privacy.previous_root_key` is the one before it
    Rewrap,
}

#[derive(Serialize)]
struct Row {
    epoch: i64,
    /// The beginning of its fingerprint.
    root: String,
    setting: &'static str,
    keys: u64,
}

impl From<Epoch> for Row {
    fn from(epoch: Epoch) -> Self {
        let setting = match epoch.standing {
            RootStanding::Current => "privacy.root_key",
            RootStanding::Previous => "privacy.previous_root_key",
            RootStanding::Unknown => "",
        };
        Self { epoch: epoch.epoch, root: epoch.root, setting, keys: epoch.keys }
    }
}

const COLUMNS: [&str; 4] = ["epoch", "root", "setting", "keys"];

impl Key {
    /// Runs it. The folder of keys is all that it needs.
    pub async fn run(self, settings: &Settings, output: Output) -> Result<Exit, Failure> {
        let (folder, roots) = wiring::keys(settings)?.ok_or(SettingsError::Missing("privacy.keys_folder"))?;
        let folder = folder.to_owned();
        let rows = tokio::task::spawn_blocking(move || {
            if matches!(self, Self::Rewrap) {
                let bar = Bar::of("keys", "keys", 0);
                let rewrapped = keyring::rewrap(&folder, &roots, |done, total| {
                    bar.set_total(total);
                    bar.at(done);
                });
                bar.end();
                let rewrapped = rewrapped?;
                eprintln!("{} keys were wrapped anew; all are of epoch {}", rewrapped.keys, rewrapped.epoch);
            }
            Ok(keyring::epochs(&folder, &roots)?.unwrap_or_default())
        });
        let rows: Result<Vec<Epoch>, KeyringError> = rows.await.map_err(anyhow::Error::from)?;
        let rows: Vec<Row> = rows.map_err(anyhow::Error::from)?.into_iter().map(Row::from).collect();
        output.rows(&COLUMNS, &rows)?;
        Ok(if rows.iter().all(|row| !row.setting.is_empty()) { Exit::Ok } else { Exit::Problems })
    }
}

/// What is to be said of the keys before a process starts with these settings: where they stand, or why it could not use them.
pub fn standing(settings: &Settings) -> Result<String, Failure> {
    let Some((folder, roots)) = wiring::keys(settings)? else { return Ok("no folder is set".to_owned()) };
    let epochs = keyring::epochs(folder, &roots).map_err(anyhow::Error::from)?.unwrap_or_default();
    if let Some(epoch) = epochs.iter().find(|epoch| epoch.standing == RootStanding::Unknown) {
        return Err(Failure::usage(anyhow::anyhow!(
            "{} keys are wrapped under the root key {}, which is neither `privacy.root_key` nor `privacy.previous_root_key`",
            epoch.keys,
            epoch.root
        )));
    }
    let count = |standing| -> u64 {
        epochs.iter().filter(|epoch| epoch.standing == standing).map(|epoch| epoch.keys).sum()
    };
    let (current, previous) = (count(RootStanding::Current), count(RootStanding::Previous));
    Ok(if epochs.iter().any(|epoch| epoch.standing == RootStanding::Previous) {
        format!("{current} keys, and {previous} under the previous root key: run `annals key rewrap`")
    } else {
        format!("{current} keys")
    })
}
