//! An HTML page about a period of a tenant's history, from a verified export and the activity log.

use std::collections::BTreeMap;
use std::fs::File;

use chrono::{DateTime, Utc};
use maud::{DOCTYPE, Markup, html};
use proofs::VerifierKey;
use proofs::export::{Item, Line, Part};
use proofs::frame::Entry;
use proofs::verify::Report;
use schemas::engine::recorded::timestamp;
use serde_json::Value;

use crate::Error;
use crate::export_file::items;

/// Maximum refusals that the page lists.
const REFUSALS_PRINTED_MAX: usize = 200;

/// The time that a page is about.
#[derive(Debug, Clone, Copy)]
pub struct Period {
    /// Its beginning.
    pub from: DateTime<Utc>,
    /// Its end. The page shows the rights at this time.
    pub to: DateTime<Utc>,
}

/// An entry of the activity log.
#[derive(Debug, Clone)]
pub struct ReportedActivity {
    /// Its time.
    pub at: String,
    /// What happened, such as a sign-in or a refusal.
    pub kind: String,
    /// The actor.
    pub actor: String,
    /// The request or the command.
    pub action: String,
    /// `accepted`, or the code of the refusal.
    pub outcome: String,
    /// How often it happened.
    pub count: u64,
}

/// The totals of the period.
#[derive(Default)]
pub struct PeriodSummary {
    /// The events of the period.
    pub events: u64,
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

/// The page: counts, actors, rights, refusals, and the proof. `activities` are the entries of the period, newest first.
pub fn page(
    period: Period,
    key: &VerifierKey,
    verified: &Report,
    summary: &PeriodSummary,
    activities: &[ReportedActivity],
) -> String {
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
                p { (timestamp(period.from)) " to " (timestamp(period.to)) ", made " (manifest.exported_at) }
                h2 { "Proof" }
                p {
                    "All " (verified.events) " events of the log were exported and verified against the signed checkpoint below. "
                    @if summary.events > 0 {
                        "The period holds " (summary.events) " of them, positions "
                        (summary.first.unwrap_or_default()) " to " (summary.last.unwrap_or_default()) "."
                    } @else { "The period holds none of them." }
                    @if summary.absent > 0 { " Of " (summary.absent) " events parts were not in the export." }
                }
                p { "Log " code { (manifest.log_id) } ", key " code { (key) } }
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
    .into_string()
}

impl PeriodSummary {
    /// The totals of a period in a verified export.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(file: File, period: Period) -> Result<Self, Error> {
        let mut summary = Self::default();
        for item in items(file) {
            let Item::Event(line) = item? else { continue };
            let entry = Entry::decode(&line.entry.0).ok_or(Error::Entry)?;
            let at = DateTime::from_timestamp_micros(entry.recorded_at).ok_or(Error::Time)?;
            if at > period.to {
                break;
            }
            let payload = open_part(&line.payload);
            summary.user(&entry, payload.as_ref());
            if at >= period.from {
                summary.count(&line, &entry, open_part(&line.metadata).as_ref());
            }
        }
        Ok(summary)
    }

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
