//! `annals audit open` and `keygen`: an auditor decrypts personal data in an export, offline, with a private key of its
//! own.

use std::fs::OpenOptions;
use std::io::{BufWriter, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use chrono::DateTime;
use clap::Args;
use keyring::{ExportedKeys, Identity};
use proofs::VerifierKey;
use proofs::export::{Absent, Item, Line, Part};
use proofs::frame::Entry;
use proofs::verify::{Known, VerifyError};
use schemas::engine::recorded::timestamp;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;
use verifier::export_file::{items, verify_file};

use super::files::read;
use crate::failure::Failure;
use terminal::Exit;
use terminal::{ignore_broken_pipe, json_line};

/// `annals audit open ...`
#[derive(Debug, Args)]
pub struct Open {
    /// The export, made with `--keys-to`
    file: PathBuf,
    /// The log's public key, as `annals audit key` prints it: the file is verified first
    #[arg(long, value_name = "VKEY", value_parser = |text: &str| text.parse::<VerifierKey>())]
    key: VerifierKey,
    /// The file of the private key, as `annals audit keygen` and `age-keygen` write it
    #[arg(long, value_name = "FILE")]
    identity_file: PathBuf,
}

/// `annals audit keygen ...`
#[derive(Debug, Args)]
pub struct Keygen {
    /// The file for the private key; it must not be there yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// An event with its personal data decrypted.
#[derive(Serialize)]
struct OpenedEvent<'a> {
    position: u64,
    id: Uuid,
    #[serde(rename = "type")]
    event_type: &'a str,
    stream: &'a str,
    version: u64,
    recorded_at: String,
    data: Option<Value>,
    metadata: Option<Value>,
    /// Why the data is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<Absent>,
}

impl Open {
    /// Verifies the file, then prints its events, one JSON object on each line.
    pub fn run(self) -> Result<Exit, Failure> {
        let text = read(&self.identity_file).map_err(Failure::usage)?;
        let identity = Identity::from_file_text(&text)
            .with_context(|| self.identity_file.display().to_string())
            .map_err(Failure::usage)?;
        let (mut file, verdict) = verify_file(&self.file, &self.key, &Known::default())?;
        let report = match verdict {
            Ok(report) => report,
            Err(VerifyError::Unreadable(error)) => return Err(error.into()),
            Err(error) => return Err(Failure::new(Exit::CheckFailed, error)),
        };
        match report.manifest.keys_to {
            None => return Err(Failure::usage(anyhow!("the export holds no keys: make one with --keys-to"))),
            Some(keys_to) if keys_to != identity.recipient().to_string() => {
                return Err(Failure::new(Exit::Denied, anyhow!("the keys were encrypted to {keys_to}")));
            }
            Some(_) => {}
        }
        file.rewind()?;
        let mut out = BufWriter::new(std::io::stdout().lock());
        let (mut keys, mut in_a_row) = (ExportedKeys::default(), false);
        for item in items(file) {
            let item = item?;
            let is_keys = matches!(item, Item::Keys(_));
            match item {
                Item::Event(line) => {
                    if let Err(error) = json_line(&mut out, &open_event(&line, &keys)?) {
                        return ignore_broken_pipe(error).map(|()| Exit::Ok).map_err(Failure::from);
                    }
                }
                Item::Keys(piece) => {
                    if !in_a_row {
                        keys.clear();
                    }
                    keys.add(&piece.keys.0, &identity).map_err(|error| Failure::new(Exit::Denied, error))?;
                }
                Item::Schema(_) => {}
                Item::End(_) => break,
            }
            in_a_row = is_keys;
        }
        out.flush().or_else(ignore_broken_pipe)?;
        Ok(Exit::Ok)
    }
}

fn open_event<'a>(line: &'a Line, keys: &ExportedKeys) -> anyhow::Result<OpenedEvent<'a>> {
    let entry = Entry::decode(&line.entry.0).context("an entry")?;
    let at = DateTime::from_timestamp_micros(entry.recorded_at).context("a time")?;
    let parse = |part: &Part| match part {
        Part::Open { bytes, .. } => serde_json::from_slice(&bytes.0).map(Some).context("a payload"),
        Part::Absent { .. } => Ok(None),
    };
    let absent = match line.payload {
        Part::Absent { absent } => Some(absent),
        Part::Open { .. } => None,
    };
    Ok(OpenedEvent {
        position: line.position,
        id: entry.event_id,
        event_type: entry.event_type,
        stream: entry.stream,
        version: entry.version,
        recorded_at: timestamp(at),
        data: parse(&line.payload)?.map(|data| keys.open(entry.event_id, data)),
        metadata: parse(&line.metadata)?,
        absent,
    })
}

impl Keygen {
    /// Writes a new private key that only its owner can read, and prints the public key.
    pub fn run(self) -> Result<Exit, Failure> {
        let identity = Identity::generate();
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.out);
        let mut file = file.with_context(|| format!("{} cannot be written", self.out.display()))?;
        file.write_all(identity.to_file_text().as_bytes())?;
        file.sync_all()?;
        println!("{}", identity.recipient());
        Ok(Exit::Ok)
    }
}
