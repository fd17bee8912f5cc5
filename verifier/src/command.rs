//! The command line of the verifier, and what it prints.

use std::fs::File;
use std::io::{self, BufReader, Seek};
use std::path::{Path, PathBuf};

use clap::Args;
use proofs::VerifierKey;
use proofs::verify::{self, Known, Replaced, Report, VerifyError};
use serde::Serialize;
use terminal::{Exit, Output};

use crate::export_file::verify_file;
use crate::schema_check::{Mismatch, count_mismatches};
use crate::{Error, KnownError};

/// Maximum mismatches that are printed.
const MISMATCHES_PRINTED_MAX: u64 = 20;

/// The options of a verification.
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
    /// Verifies the file and prints the result.
    ///
    /// # Errors
    /// A file cannot be used. That a file is not the signed history is no error: it is printed.
    pub fn run(self, output: Output) -> Result<Exit, Error> {
        let known = self.known()?;
        let (mut file, verdict) = verify_file(&self.file, &self.key, &known)?;
        match verdict {
            Err(VerifyError::Unreadable(error)) => Err(error.into()),
            Ok(report) => {
                report.replaced.iter().for_each(|replaced| eprintln!("{}", describe_replacement(replaced)));
                let misfits = if self.schemas {
                    file.rewind()?;
                    Some(print_mismatches(file)?)
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

    fn known(&self) -> Result<Known, KnownError> {
        let mut known = Known::default();
        if let Some(path) = &self.earlier {
            let file = File::open(path).map_err(|error| unreadable(path, error))?;
            known.leaves = verify::leaves(BufReader::new(file)).map_err(KnownError::Earlier)?;
        }
        if let Some(path) = &self.tiles {
            let bytes = std::fs::read(path).map_err(|error| unreadable(path, error))?;
            let (tiles, rest) = bytes.as_chunks::<32>();
            if !rest.is_empty() {
                return Err(KnownError::Tiles(path.clone()));
            }
            known.tiles = tiles.to_vec();
        }
        for path in &self.since {
            known.checkpoints.push(std::fs::read_to_string(path).map_err(|error| unreadable(path, error))?);
        }
        Ok(known)
    }
}

fn unreadable(path: &Path, source: io::Error) -> KnownError {
    KnownError::File { path: path.to_owned(), source }
}

/// Prints the first mismatches on standard error. Returns how many there are.
fn print_mismatches(file: File) -> Result<u64, Error> {
    let mut printed = 0;
    count_mismatches(file, |Mismatch { position, event_type, problem }| {
        if printed < MISMATCHES_PRINTED_MAX {
            printed += 1;
            eprintln!("position {position}: {event_type} {problem}");
        }
    })
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
