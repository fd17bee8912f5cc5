//! `annals audit report`: exports a tenant's history, verifies it, and writes the page about a period.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::PathBuf;

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::Args;
use client::{ActivitiesRequest, ExportRequest, LoggedActivity};
use proofs::VerifierKey;
use proofs::verify::{Known, verify};
use verifier::report::{self, Period, PeriodSummary, ReportedActivity};

use super::super::remote::Remote;
use super::export::download;
use crate::failure::Failure;
use terminal::Exit;

/// Entries of the activity log in a page of the API.
const PAGE_SIZE: usize = 1_000;
/// Maximum entries of the activity log in one report.
const ENTRIES_MAX: usize = 50_000;

/// `annals audit report ...`
#[derive(Debug, Args)]
pub struct Report {
    /// The log's public key, as `annals audit key` prints it
    #[arg(long, value_name = "VKEY", value_parser = |text: &str| text.parse::<VerifierKey>())]
    key: VerifierKey,
    /// The beginning of the period (RFC 3339)
    #[arg(long, value_name = "TIME")]
    from: DateTime<Utc>,
    /// The end of the period (RFC 3339); the page shows the rights at this time
    #[arg(long, value_name = "TIME")]
    to: DateTime<Utc>,
    /// The page to write
    #[arg(long, value_name = "FILE", default_value = "audit-report.html")]
    out: PathBuf,
    #[command(flatten)]
    remote: Remote,
}

impl Report {
    /// Exports, verifies and writes the page.
    pub async fn run(self) -> Result<Exit, Failure> {
        if self.from > self.to {
            return Err(Failure::usage(anyhow::anyhow!("the period ends before it begins")));
        }
        let period = Period { from: self.from, to: self.to };
        let file = tempfile::NamedTempFile::new()?;
        download(&self.remote, &ExportRequest::default(), &mut File::create(file.path())?).await?;
        let verified = verify(BufReader::new(File::open(file.path())?), &self.key, &Known::default());
        let verified = match verified {
            Ok(verified) => verified,
            Err(error) => {
                return Err(Failure::new(
                    Exit::CheckFailed,
                    anyhow::Error::from(error).context("not verified"),
                ));
            }
        };
        let summary = PeriodSummary::read(File::open(file.path())?, period);
        let summary = summary.context("the export does not read")?;
        let activities = self.activities().await?;
        let page = report::page(period, &self.key, &verified, &summary, &activities);
        let mut out =
            File::create(&self.out).with_context(|| format!("{} cannot be written", self.out.display()))?;
        out.write_all(page.as_bytes())?;
        eprintln!(
            "{} written: {} events of {} verified",
            self.out.display(),
            summary.events,
            verified.events
        );
        Ok(Exit::Ok)
    }

    /// The activity log's entries of the period, newest first.
    async fn activities(&self) -> Result<Vec<ReportedActivity>, Failure> {
        let client = self.remote.client()?;
        let mut request =
            ActivitiesRequest { since: self.from, until: self.to, before: None, limit: PAGE_SIZE };
        let mut all: Vec<LoggedActivity> = Vec::new();
        loop {
            let page = client.activities(&request).await?;
            let full = page.len() == PAGE_SIZE;
            all.extend(page);
            if !full || all.len() >= ENTRIES_MAX {
                return Ok(all.into_iter().map(reported).collect());
            }
            request.before = all.last().map(|last| last.id.clone());
        }
    }
}

fn reported(activity: LoggedActivity) -> ReportedActivity {
    let LoggedActivity { at, kind, actor, action, outcome, count, .. } = activity;
    ReportedActivity { at, kind, actor, action, outcome, count }
}
