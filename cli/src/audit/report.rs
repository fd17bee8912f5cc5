//! `annals audit report`: an HTML page about a period of a tenant's history, from a verified export.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::PathBuf;

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::Args;
use client::{ActivitiesRequest, ExportRequest, LoggedActivity};
use maud::{DOCTYPE, Markup, html};
use proofs::VerifierKey;
use proofs::export::{Item, Line, Part};
use proofs::frame::Entry;
use proofs::verify::{Known, verify};
use schemas::engine::recorded::timestamp;
use serde_json::Value;

use super::super::remote::Remote;
use super::super::{Exit, Failure};
use super::export::download;
use super::items;

/// Maximum refusals that the page lists.
const REFUSALS_PRINTED_MAX: usize = 200;
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

/// The totals of the period.
#[derive(Default)]
struct PeriodSummary {
    events: u64,
    first: Option<u64>,
    last: Option<u64>,
    by_type: BTreeMap<String, u64>,
    by_actor: BTreeMap<String, u64>,
    users: BTreeMap<String, User>,
    absent: u64,
}

/// A user at the end of the period.
struct User {
    name: String,
    roles: Vec<String>,
    deactivated: bool,
}

impl Report {
    /// Exports, verifies and writes the page.
    pub async fn run(self) -> Result<Exit, Failure> {
        if self.from > self.to {
            return Err(Failure::usage(anyhow::anyhow!("the period ends before it begins")));
        }
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
        let summary = self.summary(File::open(file.path())?).context("the export does not read")?;
        let activities = self.activities().await?;
        let page = self.page(&verified, &summary, &activities).into_string();
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

    fn summary(&self, file: File) -> anyhow::Result<PeriodSummary> {
        let mut summary = PeriodSummary::default();
        for item in items(file) {
            let Item::Event(line) = item? else { continue };
            let entry = Entry::decode(&line.entry.0).context("an entry")?;
            let at = DateTime::from_timestamp_micros(entry.recorded_at).context("a time")?;
            if at > self.to {
                break;
            }
            let payload = open_part(&line.payload);
            summary.user(&entry, payload.as_ref());
            if at >= self.from {
                summary.count(&line, &entry, open_part(&line.metadata).as_ref());
            }
        }
        Ok(summary)
    }

    /// The activity log's entries of the period, newest first.
    async fn activities(&self) -> Result<Vec<LoggedActivity>, Failure> {
        let client = self.remote.client()?;
        let mut request =
            ActivitiesRequest { since: self.from, until: self.to, before: None, limit: PAGE_SIZE };
        let mut all: Vec<LoggedActivity> = Vec::new();
        loop {
            let page = client.activities(&request).await?;
            let full = page.len() == PAGE_SIZE;
            all.extend(page);
            if !full || all.len() >= ENTRIES_MAX {
                return Ok(all);
            }
            request.before = all.last().map(|last| last.id.clone());
        }
    }

    fn page(
        &self,
        verified: &proofs::verify::Report,
        summary: &PeriodSummary,
        activities: &[LoggedActivity],
    ) -> Markup {
        let manifest = &verified.manifest;
        let mut kinds: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for activity in activities {
            *kinds.entry((&activity.kind, &activity.outcome)).or_default() += activity.count;
        }
        let refusals = || activities.iter().filter(|activity| activity.outcome != "accepted");
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    title { "Audit of " (manifest.tenant) }
                    style { (REPORT_CSS) }
                }
                body {
                    h1 { "Audit of " (manifest.tenant) }
                    p { (timestamp(self.from)) " to " (timestamp(self.to)) ", made " (manifest.exported_at) }
                    h2 { "Proof" }
                    p {
                        "All " (verified.events) " events of the log were exported and verified against the signed checkpoint below. "
                        @if summary.events > 0 {
                            "The period holds " (summary.events) " of them, positions "
                            (summary.first.unwrap_or_default()) " to " (summary.last.unwrap_or_default()) "."
                        } @else { "The period holds none of them." }
                        @if summary.absent > 0 { " Of " (summary.absent) " events parts were not in the export." }
                    }
                    p { "Log " code { (manifest.log_id) } ", key " code { (self.key) } }
                    pre { (manifest.checkpoint) }
                    h2 { "Events by type" }
                    (counts(["type", "events"], &summary.by_type))
                    h2 { "Events by actor" }
                    (counts(["actor", "events"], &summary.by_actor))
                    h2 { "Users and their rights as of the end" }
                    table {
                        tr { th { "user" } th { "name" } th { "roles" } th { "status" } }
                        @for (id, user) in &summary.users {
                            tr {
                                td { code { (id) } }
                                td { (user.name) }
                                td { (user.roles.join(", ")) }
                                td { @if user.deactivated { "deactivated" } @else { "may sign in" } }
                            }
                        }
                    }
                    h2 { "Activity" }
                    p { "From the activity log, which is kept apart from the history for a limited time and is not part of the proof." }
                    table {
                        tr { th { "kind" } th { "outcome" } th { "how often" } }
                        @for ((kind, outcome), count) in &kinds { tr { td { (kind) } td { (outcome) } td { (count) } } }
                    }
                    h2 { "Refusals" }
                    @if refusals().count() > REFUSALS_PRINTED_MAX { p { "The newest " (REFUSALS_PRINTED_MAX) " of " (refusals().count()) "." } }
                    table {
                        tr { th { "time" } th { "kind" } th { "actor" } th { "action" } th { "outcome" } }
                        @for activity in refusals().take(REFUSALS_PRINTED_MAX) {
                            tr {
                                td { (activity.at) } td { (activity.kind) } td { (activity.actor) }
                                td { (activity.action) } td { (activity.outcome) }
                            }
                        }
                    }
                }
            }
        }
    }
}

impl PeriodSummary {
    fn count(&mut self, line: &Line, entry: &Entry<'_>, metadata: Option<&Value>) {
        self.events += 1;
        self.first.get_or_insert(line.position);
        self.last = Some(line.position);
        *self.by_type.entry(entry.event_type.to_owned()).or_default() += 1;
        let actor = metadata.and_then(|metadata| metadata["actor"].as_str()).unwrap_or("not in the export");
        *self.by_actor.entry(actor.to_owned()).or_default() += 1;
        let is_absent = |part: &Part| matches!(part, Part::Absent { .. });
        self.absent += u64::from(is_absent(&line.payload) || is_absent(&line.metadata));
    }

    fn user(&mut self, entry: &Entry<'_>, payload: Option<&Value>) {
        let Some(id) = entry.stream.strip_prefix("identity.user/") else { return };
        let text = |name: &str| Some(payload?.get(name)?.as_str()?.to_owned());
        match entry.event_type {
            "identity.user.registered.v1" => {
                let roles = roles(payload);
                let name = text("name").unwrap_or_else(|| "not in the export".to_owned());
                self.users.insert(id.to_owned(), User { name, roles, deactivated: false });
            }
            "identity.user.name_changed.v1" => {
                if let (Some(user), Some(name)) = (self.users.get_mut(id), text("name")) {
                    user.name = name;
                }
            }
            "identity.user.roles_changed.v1" => {
                if let Some(user) = self.users.get_mut(id) {
                    user.roles = roles(payload);
                }
            }
            "identity.user.deactivated.v1" => {
                if let Some(user) = self.users.get_mut(id) {
                    user.deactivated = true;
                }
            }
            _ => {}
        }
    }
}

fn roles(payload: Option<&Value>) -> Vec<String> {
    match payload.and_then(|payload| payload["roles"].as_array()) {
        Some(roles) => roles.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        None => vec!["not in the export".to_owned()],
    }
}

fn open_part(part: &Part) -> Option<Value> {
    match part {
        Part::Open { bytes, .. } => serde_json::from_slice(&bytes.0).ok(),
        Part::Absent { .. } => None,
    }
}

fn counts(columns: [&str; 2], counts: &BTreeMap<String, u64>) -> Markup {
    html! {
        table {
            tr { @for column in columns { th { (column) } } }
            @for (name, count) in counts { tr { td { (name) } td { (count) } } }
        }
    }
}

const REPORT_CSS: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
    table{border-collapse:collapse}th,td{border-bottom:1px solid #ccc;padding:.2rem .8rem .2rem 0;text-align:left}\
    pre,code{font-size:.85em;overflow-wrap:anywhere;white-space:pre-wrap}";
