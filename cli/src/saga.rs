//! `annals saga`: lists instances of sagas, and shows the history of one.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use clap::{Args, Subcommand};
use sagas::{InstanceHistory, InstanceStatus, InstanceSummary, StepOutcome, StepState, TimerState};
use schemas::engine::recorded::timestamp;
use schemas::engine::{RecordedEvent, StreamName, TenantSlug, sealed};
use serde::Serialize;
use serde_json::{Value, json};
use store::{DeadLetter, Store};
use uuid::Uuid;

use super::{operator_audit, tenant};
use crate::failure::Failure;
use settings::Settings;
use terminal::ignore_broken_pipe;
use terminal::{Exit, Output};

/// `annals saga ...`
#[derive(Debug, Subcommand)]
pub enum Saga {
    /// List the instances, by tenant, saga and id
    Ls(Ls),
    /// Show an instance with everything that happened to it
    Show(Show),
}

/// `annals saga ls ...`
#[derive(Debug, Args)]
pub struct Ls {
    /// Of this tenant only
    #[arg(long, value_parser = |text: &str| TenantSlug::parse(text))]
    tenant: Option<TenantSlug>,
    /// In this state only
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(InstanceStatus::ALL.map(InstanceStatus::as_str)))]
    state: Option<String>,
    /// Maximum number of instances
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Start after this instance, as printed at the end of the previous page
    #[arg(long, value_name = "TENANT/SAGA/ID")]
    after: Option<String>,
}

/// `annals saga show ...`
#[derive(Debug, Args)]
pub struct Show {
    /// The instance's id
    id: Uuid,
    /// Its tenant [default: all tenants are searched]
    #[arg(long, value_parser = |text: &str| TenantSlug::parse(text))]
    tenant: Option<TenantSlug>,
    /// Its saga [default: all sagas are searched]
    #[arg(long, value_name = "NAME")]
    saga: Option<String>,
}

const COLUMNS: [&str; 8] = ["tenant", "saga", "instance", "state", "phase", "step", "next_due", "since"];
/// Instances read at a time.
const PAGE_SIZE: u32 = 200;

#[derive(Serialize)]
struct SagaLine {
    tenant: String,
    saga: String,
    instance: Uuid,
    state: &'static str,
    /// The state of the instance, in the saga's own term.
    phase: String,
    step: Option<String>,
    next_due: Option<String>,
    since: String,
}

impl SagaLine {
    fn new(tenant: &TenantSlug, summary: InstanceSummary) -> Self {
        Self {
            tenant: tenant.to_string(),
            saga: summary.saga,
            instance: summary.instance,
            state: summary.status.as_str(),
            phase: summary.phase,
            step: summary.step,
            next_due: summary.next_due.map(timestamp),
            since: timestamp(summary.since),
        }
    }
}

impl Saga {
    /// Runs it.
    pub async fn run(self, settings: &Settings, output: Output) -> Result<Exit, Failure> {
        let store = wiring::connect(settings).await?;
        let done = match self {
            Self::Ls(ls) => ls.run(&store, output).await,
            Self::Show(show) => show.run(&store, output).await,
        };
        store.shutdown().await;
        done
    }
}

/// Tenants with their slugs, ordered by slug.
async fn tenants(
    store: &Store,
    only: Option<&TenantSlug>,
) -> Result<Vec<(TenantSlug, schemas::engine::TenantId)>, Failure> {
    if let Some(slug) = only {
        return Ok(vec![(slug.clone(), tenant::find(store, slug).await?.id)]);
    }
    let mut found = Vec::new();
    loop {
        let page = store.tenants(found.last().map(|(slug, _)| slug), PAGE_SIZE).await?;
        let is_last = page.len() < PAGE_SIZE as usize;
        found.extend(page.into_iter().map(|record| (record.slug, record.id)));
        if is_last {
            return Ok(found);
        }
    }
}

impl Ls {
    async fn run(self, store: &Store, output: Output) -> Result<Exit, Failure> {
        let behind = self.after.as_deref().map(parse_cursor).transpose()?;
        let (mut rows, mut shown, mut last) = (Vec::new(), Vec::new(), None);
        'tenants: for (slug, id) in tenants(store, self.tenant.as_ref()).await? {
            let mut after = match &behind {
                Some((of, _)) if slug < *of => continue,
                Some((of, stream)) if slug == *of => Some(stream.clone()),
                _ => None,
            };
            loop {
                let page = sagas::list_instances(&store.tenant(id), after.as_ref(), PAGE_SIZE).await?;
                let is_last = page.len() < PAGE_SIZE as usize;
                after = page.last().map(InstanceSummary::stream);
                for summary in page {
                    if self.state.as_deref().is_some_and(|state| state != summary.status.as_str()) {
                        continue;
                    }
                    if rows.len() == self.limit as usize {
                        // There is at least this one more instance after the page.
                        if let Some(last) = last {
                            eprintln!("there are more: --after {last}");
                        }
                        break 'tenants;
                    }
                    last = Some(format!("{slug}/{}/{}", summary.saga, summary.instance));
                    rows.push(SagaLine::new(&slug, summary));
                    shown.push(id);
                }
                if is_last {
                    break;
                }
            }
        }
        operator_audit::record_access(store, shown).await?;
        output.rows(&COLUMNS, &rows)?;
        Ok(Exit::Ok)
    }
}

/// Parses the cursor of a page: it starts after this stream of this tenant.
fn parse_cursor(text: &str) -> Result<(TenantSlug, StreamName), Failure> {
    let wrong = || Failure::usage(anyhow::anyhow!("--after is TENANT/SAGA/ID, as a page before has told it"));
    let (slug, instance) = text.split_once('/').ok_or_else(wrong)?;
    let slug = TenantSlug::parse(slug).map_err(Failure::usage)?;
    Ok((slug, StreamName::parse(&format!("saga.{instance}")).map_err(Failure::usage)?))
}

#[derive(Serialize)]
struct InstanceDetails {
    #[serde(flatten)]
    row: SagaLine,
    facts: Vec<Value>,
    steps: Vec<Value>,
    timers: Vec<Value>,
    dead_letters: Vec<Value>,
}

impl Show {
    async fn run(self, store: &Store, output: Output) -> Result<Exit, Failure> {
        let names: Vec<String> = match &self.saga {
            Some(name) => vec![name.clone()],
            None => sagas::processes().iter().map(|process| process.name().to_owned()).collect(),
        };
        let mut found = Vec::new();
        for (slug, id) in tenants(store, self.tenant.as_ref()).await? {
            for name in &names {
                let history = sagas::show_instance(&store.tenant(id), name, self.id).await?;
                found.extend(history.map(|history| (slug.clone(), id, history)));
            }
        }
        let Some((slug, tenant, history)) = found.pop() else {
            return Err(Failure::not_found("saga instance", self.id));
        };
        if !found.is_empty() {
            let several = anyhow::anyhow!("there are several of this id: give --tenant and --saga");
            return Err(Failure::usage(several));
        }
        operator_audit::record_access(store, [tenant]).await?;
        let shown = instance_details(&slug, history);
        if output == Output::Table {
            print(&shown)?;
        } else {
            output.object(&COLUMNS, &shown)?;
        }
        Ok(Exit::Ok)
    }
}

fn instance_details(slug: &TenantSlug, history: InstanceHistory) -> InstanceDetails {
    InstanceDetails {
        facts: history.facts.iter().map(fact).collect(),
        steps: history.steps.iter().map(step).collect(),
        timers: history.timers.iter().map(|(label, state)| timer(label, *state)).collect(),
        dead_letters: history.dead_letters.iter().map(letter).collect(),
        row: SagaLine::new(slug, history.summary),
    }
}

fn fact(event: &RecordedEvent) -> Value {
    let mut data: Value = serde_json::from_slice(&event.payload).unwrap_or(Value::Null);
    sealed::spread(&mut data);
    json!({
        "at": timestamp(event.recorded_at), "version": event.version, "position": event.position,
        "type": event.event_type.as_str(), "data": data,
    })
}

fn step(step: &StepOutcome) -> Value {
    let outcome = match step.state {
        StepState::Pending => "wanted",
        StepState::Completed => "completed",
        StepState::Failed => "failed",
        StepState::Discarded => "discarded",
        StepState::RetriesExhausted => "given up",
    };
    json!({
        "step": step.step, "command": step.command["name"], "target": step.command["id"],
        "command_id": step.command_id, "outcome": outcome, "refusals": step.attempts,
        "last_error": step.last_error, "next_due": step.next_due.map(timestamp),
    })
}

fn timer(label: &str, state: TimerState) -> Value {
    let (state, due) = match state {
        TimerState::Set(due) => ("set", Some(timestamp(due))),
        TimerState::Fired => ("fired", None),
        TimerState::Cancelled => ("cancelled", None),
    };
    json!({"timer": label, "state": state, "due": due})
}

fn letter(letter: &DeadLetter) -> Value {
    json!({
        "id": letter.id, "step": letter.subject, "status": letter.status.as_str(), "attempts": letter.attempts,
        "error_code": letter.error_code, "error": letter.error, "first_at": timestamp(letter.first_at),
        "last_at": timestamp(letter.last_at), "history": letter.history,
    })
}

fn print(shown: &InstanceDetails) -> io::Result<()> {
    let row = &shown.row;
    let (step, due) = (row.step.clone().unwrap_or_default(), row.next_due.clone().unwrap_or_default());
    let fields = [
        ("tenant", row.tenant.clone()),
        ("saga", row.saga.clone()),
        ("instance", row.instance.to_string()),
        ("state", row.state.to_owned()),
        ("phase", row.phase.clone()),
        ("step", step),
        ("next due", due),
        ("since", row.since.clone()),
    ];
    let mut text = String::new();
    for (name, value) in fields {
        writeln!(text, "{name:<9} {value}").expect("writing to a string");
    }
    let parts: [(&str, &[Value], &[&str]); 4] = [
        ("facts", &shown.facts, &["at", "position", "type"]),
        ("commands", &shown.steps, &["step", "command", "outcome", "refusals", "last_error", "next_due"]),
        ("timers", &shown.timers, &["timer", "state", "due"]),
        ("dead letters", &shown.dead_letters, &["id", "step", "status", "attempts", "error_code", "last_at"]),
    ];
    for (title, lines, columns) in parts.into_iter().filter(|(_, lines, _)| !lines.is_empty()) {
        writeln!(text, "{title}").expect("writing to a string");
        for line in lines {
            let about = ["step", "timer", "state"].iter().find_map(|name| line["data"][*name].as_str());
            let cells = columns.iter().map(|column| match &line[*column] {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                other => other.to_string(),
            });
            let cells: Vec<String> =
                cells.chain(about.map(ToOwned::to_owned)).filter(|cell| !cell.is_empty()).collect();
            writeln!(text, "  {}", cells.join("  ")).expect("writing to a string");
        }
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).or_else(ignore_broken_pipe)
}
