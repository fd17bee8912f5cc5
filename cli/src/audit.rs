//! `annals audit`: commands for auditors. They use the API with a token; `verify` and `open` need only files and keys.

mod export;
mod files;
mod open;
mod report;
mod token;

use std::io::{self, Write};

use clap::{Args, Subcommand};
use serde_json::Value;
use verifier::Verify;

use super::remote::Remote;
use crate::failure::Failure;
use terminal::{Exit, Output};

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
            Self::Verify(verify) => Ok(verify.run(output)?),
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
