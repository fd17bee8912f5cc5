//! `annals audit`: commands for auditors. They use the API with a token; `verify` and `open` need only files and keys.

mod export;
mod open;
mod report;
mod schema_check;
mod token;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use proofs::export::Item;
use proofs::verify::{Known, Replaced, Report, VerifyError};
use proofs::{VerifierKey, verify};
use serde::Serialize;
use serde_json::Value;

use super::remote::Remote;
use super::{Exit, Failure, Output};

/// `annals audit ...`
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Print the public key of the log's checkpoints; compare it with a copy from another source
    Key(Remote),
    /// Print the newest signed checkpoint; keep it, because later exports must continue it
    Checkpoint(Remote),
    /// Prove that an event is in the log
    Prove(Prove),
    /// Prove that a shorter log is the beginning of a longer one
    Consistency(Consistency),
    /// Write a history, or a part of it, into a file that verifies offline
    Export(export::Export),
    /// Make a key pair for `export --keys-to` and `open`: writes the private key, prints the public one
    Keygen(open::Keygen),
    /// Verify an export and print its events; personal data is decrypted if its key is in the file
    Open(open::Open),
    /// Write a page about a period: counts, actors, rights, refusals, and the proof
    Report(report::Report),
    /// Tokens with which auditors read
    #[command(subcommand)]
    Token(token::Token),
    /// Verify an export with nothing but the file and the key; exit code 9 when it is not the signed history
    Verify(Verify),
}

/// `annals audit prove ...`
#[derive(Debug, Args)]
pub struct Prove {
    /// The event's position
    position: u64,
    /// The size of the log to prove it for, in events [default: the newest sealed]
    #[arg(long, value_name = "N")]
    size: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

/// `annals audit consistency ...`
#[derive(Debug, Args)]
pub struct Consistency {
    /// The size of the shorter log
    #[arg(long, value_name = "N")]
    from: u64,
    /// The size of the longer log [default: the newest sealed]
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

/// `annals audit verify ...`
#[derive(Debug, Args)]
pub struct Verify {
    /// The export
    file: PathBuf,
    /// The log's public key, as `annals audit key` prints it
    #[arg(long, value_name = "VKEY", value_parser = |text: &str| text.parse::<VerifierKey>())]
    key: VerifierKey,
    /// An earlier export of the same log: it identifies a changed event exactly
    #[arg(long, value_name = "FILE")]
    earlier: Option<PathBuf>,
    /// The signer's file of tiles: it narrows a changed event down to 256 events
    #[arg(long, value_name = "FILE")]
    tiles: Option<PathBuf>,
    /// An earlier checkpoint of this log or of one that it replaced: the export must continue it
    #[arg(long, value_name = "FILE")]
    since: Vec<PathBuf>,
    /// Check the payloads against the schemas in the file as well; exit code 9 when one does not fit
    #[arg(long)]
    schemas: bool,
}

impl Audit {
    /// Runs it.
    pub async fn run(self, output: Output) -> Result<Exit, Failure> {
        match self {
            Self::Key(remote) => print(&remote.client()?.audit_key().await?),
            Self::Checkpoint(remote) => print(&remote.client()?.checkpoint().await?),
            Self::Prove(Prove { position, size, remote }) => {
                print_proof(&remote.client()?.inclusion_proof(position, size).await?, output)
            }
            Self::Consistency(Consistency { from, to, remote }) => {
                print_proof(&remote.client()?.consistency_proof(from, to).await?, output)
            }
            Self::Export(export) => export.run().await,
            Self::Keygen(keygen) => keygen.run(),
            Self::Open(open) => open.run(),
            Self::Report(report) => report.run().await,
            Self::Token(token) => token.run(output).await,
            Self::Verify(verify) => verify.run(output),
        }
    }
}

fn print(text: &str) -> Result<Exit, Failure> {
    io::stdout().write_all(text.as_bytes())?;
    Ok(Exit::Ok)
}

fn print_proof(proof: &Value, output: Output) -> Result<Exit, Failure> {
    // A proof is for programs, and its path is not readable in a table.
    let output = if output == Output::Table { Output::Json } else { output };
    output.object(&[], proof)?;
    Ok(Exit::Ok)
}

/// Verifies a file with a progress bar. Afterwards the file is at the position where reading ended.
fn verify_file(
    path: &Path,
    key: &VerifierKey,
    known_state: &Known,
) -> Result<(File, Result<Report, VerifyError>), Failure> {
    let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let progress = ProgressBar::new(file.metadata()?.len()).with_style(
        ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes}, {bytes_per_sec}, {eta}")
            .expect("the template is well formed"),
    );
    let reader = BufReader::with_capacity(1 << 20, progress.wrap_read(&file));
    let verdict = verify::verify(reader, key, known_state);
    progress.finish_and_clear();
    Ok((file, verdict))
}

/// The items after the manifest of a verified file.
fn items(file: File) -> impl Iterator<Item = anyhow::Result<Item>> {
    BufReader::new(file).lines().skip(1).map(|line| Ok(Item::parse(&line?)?))
}

/// The result of a verification.
#[derive(Serialize)]
struct VerificationResult {
    verdict: &'static str,
    tenant: Option<String>,
    from: Option<u64>,
    to: Option<u64>,
    size: Option<u64>,
    events: Option<u64>,
    redacted: Option<u64>,
    withheld: Option<u64>,
    schemas: Option<u64>,
    misfits: Option<u64>,
    keys_to: Option<String>,
    first_bad_position: Option<u64>,
    problem: Option<String>,
    /// The earlier logs that this log replaced.
    replaced: Vec<Replaced>,
}

const COLUMNS: [&str; 11] = [
    "verdict",
    "tenant",
    "from",
    "to",
    "size",
    "events",
    "redacted",
    "withheld",
    "schemas",
    "misfits",
    "first_bad_position",
];

impl Verify {
    fn run(self, output: Output) -> Result<Exit, Failure> {
        let known_state = self.known_state().map_err(Failure::usage)?;
        let (mut file, verdict) = verify_file(&self.file, &self.key, &known_state)?;
        match verdict {
            Err(VerifyError::Unreadable(error)) => Err(error.into()),
            Ok(report) => {
                report.replaced.iter().for_each(|replaced| eprintln!("{}", describe_replacement(replaced)));
                let misfits = if self.schemas {
                    file.rewind()?;
                    Some(schema_check::count_mismatches(file)?)
                } else {
                    None
                };
                output.object(&COLUMNS, &VerificationResult::of(report, misfits))?;
                Ok(if misfits.is_some_and(|misfits| misfits > 0) { Exit::CheckFailed } else { Exit::Ok })
            }
            Err(error) => {
                eprintln!("{error}");
                output.object(&COLUMNS, &VerificationResult::failed(&error))?;
                Ok(Exit::CheckFailed)
            }
        }
    }

    fn known_state(&self) -> anyhow::Result<Known> {
        let mut known_state = Known::default();
        if let Some(path) = &self.earlier {
            let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
            known_state.leaves = verify::leaves(BufReader::new(file)).context("the earlier export")?;
        }
        if let Some(path) = &self.tiles {
            let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
            let (tiles, rest) = bytes.as_chunks::<32>();
            anyhow::ensure!(rest.is_empty(), "{} is not a file of tiles", path.display());
            known_state.tiles = tiles.to_vec();
        }
        known_state.checkpoints = self.since.iter().map(|path| read(path)).collect::<anyhow::Result<_>>()?;
        Ok(known_state)
    }
}

impl VerificationResult {
    fn of(report: Report, misfits: Option<u64>) -> Self {
        let absent = report.redacted + report.withheld > 0;
        Self {
            verdict: if absent { "verified, with absent parts" } else { "verified" },
            tenant: Some(report.manifest.tenant),
            from: Some(report.manifest.from),
            to: Some(report.manifest.to),
            size: Some(report.checkpoint.size),
            events: Some(report.events),
            redacted: Some(report.redacted),
            withheld: Some(report.withheld),
            schemas: Some(report.schemas),
            misfits,
            keys_to: report.manifest.keys_to,
            first_bad_position: None,
            problem: None,
            replaced: report.replaced,
        }
    }

    fn failed(error: &VerifyError) -> Self {
        Self {
            verdict: "not verified",
            tenant: None,
            from: None,
            to: None,
            size: None,
            events: None,
            redacted: None,
            withheld: None,
            schemas: None,
            misfits: None,
            keys_to: None,
            first_bad_position: error.first_bad_position(),
            problem: Some(error.to_string()),
            replaced: Vec::new(),
        }
    }
}

/// Describes a replacement in words.
fn describe_replacement(replaced: &Replaced) -> String {
    let Replaced { position, old_log_id, kept_to, signed_to } = replaced;
    let told = format!(
        "the log was replaced at position {position}: up to position {kept_to} its history is that of the log {old_log_id}"
    );
    match signed_to {
        Some(signed) if signed > kept_to => {
            format!("{told}; positions {} to {signed} of that one were signed and are void", kept_to + 1)
        }
        _ => told,
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))
}

/// The size in a signed checkpoint. The signature is not checked.
fn checkpoint_size(note: &str) -> anyhow::Result<u64> {
    Ok(proofs::Checkpoint::parse(note).context("not a checkpoint")?.size)
}
