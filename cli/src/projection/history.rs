//! `annals projection replay` and `diff`: a historical state of a read model and its changes, from the database or over
//! the API.

use std::io::{self, BufWriter, Stdout, Write};

use anyhow::anyhow;
use chrono::{DateTime, Utc};
use clap::Args;
use projections::{HistoricReadModel, HistoricStateError, LogPosition, ReplayTarget};
use schemas::engine::{LogId, TenantSlug};
use serde::Deserialize;
use serde_json::Value;
use store::TenantStore;
use uuid::Uuid;

use super::with_store;
use crate::progress::ProgressReporter;
use crate::remote::{Access, Api};
use crate::{Exit, Failure, Output, operator_audit, tenant};
use settings::Settings;
use terminal::{ignore_broken_pipe, json_line, table};

/// Rows in a page of the API, or events that a page of changes reads.
const PAGE_SIZE: usize = 500;

/// The read model whose historical state is shown.
#[derive(Debug, Args)]
pub struct HistoryArguments {
    /// The read model: `customers` or `customers.v1`
    name: String,
    /// The tenant [over the API: that of the token]
    #[arg(long, value_parser = |text: &str| TenantSlug::parse(text), required_unless_present = "token_file")]
    tenant: Option<TenantSlug>,
    /// The log id that the positions belong to; an error when the tenant's log has another id
    #[arg(long, value_name = "ID")]
    log: Option<Uuid>,
    #[command(flatten)]
    access: Access,
}

/// `annals projection replay ...`
#[derive(Debug, Args)]
pub struct Replay {
    #[command(flatten)]
    of: HistoryArguments,
    /// The state at this position of the log [default: the end of the log]
    #[arg(long, value_name = "N", conflicts_with = "as_of")]
    at: Option<u64>,
    /// The state at this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    as_of: Option<DateTime<Utc>>,
}

/// `annals projection diff ...`
#[derive(Debug, Args)]
pub struct Diff {
    #[command(flatten)]
    of: HistoryArguments,
    /// From the state at this position of the log
    #[arg(long, value_name = "N", conflicts_with = "after_time",
          required_unless_present_any = ["after_time", "serving"])]
    from: Option<u64>,
    /// From the state at this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    after_time: Option<DateTime<Utc>>,
    /// To the state at this position of the log [default: the end of the log]
    #[arg(long, value_name = "N", conflicts_with = "as_of")]
    to: Option<u64>,
    /// To the state at this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    as_of: Option<DateTime<Utc>>,
    /// To the present rows of the read model. Without --from: compare them with the state at their checkpoint; exit
    /// code 9 when they differ
    #[arg(long, conflicts_with_all = ["to", "as_of", "token_file"])]
    serving: bool,
}

impl HistoryArguments {
    /// Uses the API if a token was given, otherwise the database.
    async fn run_on(
        &self,
        settings: impl Fn() -> Result<Settings, Failure>,
        over_api: impl AsyncFnOnce(&Api, &'static str) -> Result<Exit, Failure>,
        in_database: impl AsyncFnOnce(&TenantStore, &'static str) -> Result<Exit, Failure>,
    ) -> Result<Exit, Failure> {
        let checkpoint =
            projections::find(&self.name).ok_or_else(|| Failure::not_found("read model", &self.name))?;
        if let Some(api) = self.access.api(self.tenant.as_ref())? {
            return over_api(&api, checkpoint).await;
        }
        let slug = self.tenant.as_ref().expect("the command line requires it");
        with_store(settings, async |store| {
            let record = tenant::find(store, slug).await?;
            operator_audit::record_access(store, [record.id]).await?;
            in_database(&store.tenant(record.id), checkpoint).await
        })
        .await
    }

    /// The expected log id: the one that was given, otherwise `current`.
    ///
    /// # Errors
    /// The given id is not `current`.
    fn log(&self, current: LogId) -> Result<LogId, Failure> {
        match self.log.map(LogId) {
            Some(named) if named != current => {
                let replaced = anyhow!("the log was replaced; the tenant's log is now {current}");
                Err(Failure::new(Exit::NotFound, replaced))
            }
            _ => Ok(current),
        }
    }

    /// Resolves positions and times to positions, and returns the log id. Each moment has at most one of both.
    async fn moments<const N: usize>(
        &self,
        tenant: &TenantStore,
        given: [(Option<u64>, Option<DateTime<Utc>>); N],
    ) -> Result<(LogId, [u64; N]), Failure> {
        let mut positions = [0; N];
        let mut log = None;
        for (position, (given, time)) in positions.iter_mut().zip(given) {
            let LogPosition { log: current, position: found, .. } =
                projections::log_position_at(tenant, time).await?;
            *position = given.unwrap_or(found);
            log = Some(self.log(*log.get_or_insert(current))?);
        }
        Ok((log.expect("at least one moment is asked for"), positions))
    }

    /// A position for the API: the given one, or the position at the given time. `log` becomes the log id that the time
    /// refers to.
    async fn position(
        &self,
        api: &Api,
        given: Option<u64>,
        time: Option<DateTime<Utc>>,
        log: &mut Option<LogId>,
    ) -> Result<Option<u64>, Failure> {
        let Some(time) = time else { return Ok(given) };
        let moment = api.moment(time).await?;
        *log = Some(self.log(moment.log)?);
        Ok(Some(moment.position))
    }
}

impl Replay {
    /// Runs it.
    pub async fn run(
        self,
        settings: impl Fn() -> Result<Settings, Failure>,
        output: Output,
    ) -> Result<Exit, Failure> {
        let over_api = async |api: &Api, of: &'static str| self.over_api(api, of, output).await;
        let in_database =
            async |tenant: &TenantStore, of: &'static str| self.in_database(tenant, of, output).await;
        self.of.run_on(settings, over_api, in_database).await
    }

    async fn in_database(
        &self,
        tenant: &TenantStore,
        checkpoint: &'static str,
        output: Output,
    ) -> Result<Exit, Failure> {
        let (log, [at]) = self.of.moments(tenant, [(self.at, self.as_of)]).await?;
        let replayed = compute(tenant, checkpoint, log, ReplayTarget::At(at)).await?;
        let mut printer = RowPrinter::new(output);
        let mut behind = None;
        loop {
            let rows = replayed.rows(behind).await.map_err(failure)?;
            let Some((last, _)) = rows.last() else { break };
            behind = Some(*last);
            if !printer.page(rows.into_iter().map(|(_, row)| row).collect())? {
                break;
            }
        }
        printer.end()?;
        eprintln!("{checkpoint} at position {at} of {log}: {} rows", printer.count);
        Ok(Exit::Ok)
    }

    async fn over_api(&self, api: &Api, checkpoint: &'static str, output: Output) -> Result<Exit, Failure> {
        #[derive(Deserialize)]
        struct Page {
            log_id: LogId,
            at: u64,
            rows: Vec<Value>,
            next_after: Option<Uuid>,
        }
        let mut log = self.of.log.map(LogId);
        let mut at = self.of.position(api, self.at, self.as_of, &mut log).await?;
        let bar = ProgressReporter::rows(checkpoint);
        let mut printer = RowPrinter::new(output);
        let mut after: Option<Uuid> = None;
        loop {
            let mut parameters = vec![("limit", PAGE_SIZE.to_string())];
            parameters.extend(at.map(|at| ("at", at.to_string())));
            parameters.extend(log.map(|log| ("log", log.to_string())));
            parameters.extend(after.map(|after| ("after", after.to_string())));
            let page: Page = api.json(&format!("/v1/audit/read-models/{checkpoint}"), &parameters).await?;
            (at, log, after) = (Some(page.at), Some(page.log_id), page.next_after);
            if !printer.page(page.rows)? || after.is_none() {
                bar.end();
                printer.end()?;
                let (at, log) = (page.at, page.log_id);
                eprintln!("{checkpoint} at position {at} of {log}: {} rows", printer.count);
                return Ok(Exit::Ok);
            }
            bar.at(printer.count);
        }
    }
}

impl Diff {
    /// Runs it.
    pub async fn run(
        self,
        settings: impl Fn() -> Result<Settings, Failure>,
        output: Output,
    ) -> Result<Exit, Failure> {
        let over_api = async |api: &Api, of: &'static str| self.over_api(api, of, output).await;
        let in_database =
            async |tenant: &TenantStore, of: &'static str| self.in_database(tenant, of, output).await;
        self.of.run_on(settings, over_api, in_database).await
    }

    async fn in_database(
        &self,
        tenant: &TenantStore,
        checkpoint: &'static str,
        output: Output,
    ) -> Result<Exit, Failure> {
        let given = [(self.from, self.after_time), (self.to, self.as_of)];
        let (log, [from, to]) = self.of.moments(tenant, given).await?;
        let bounded = self.from.is_some() || self.after_time.is_some();
        let wanted = if self.serving {
            ReplayTarget::Serving(bounded.then_some(from))
        } else {
            check_order(from, to)?;
            ReplayTarget::Between(from, to)
        };
        let replayed = compute(tenant, checkpoint, log, wanted).await?;
        let mut printer = RowPrinter::new(output);
        let mut behind = None;
        loop {
            let (changes, next) = replayed.changes(behind).await.map_err(failure)?;
            let go_on = printer.changes(changes)?;
            behind = next;
            if !go_on || behind.is_none() {
                break;
            }
        }
        printer.end()?;
        let to = replayed.compared_with.unwrap_or_default();
        let what = if self.serving { "the rows that serve, at position" } else { "position" };
        eprintln!(
            "{checkpoint} from position {} to {what} {to} of {log}: {} rows differ",
            replayed.at, printer.count
        );
        Ok(if self.serving && !bounded && printer.count > 0 { Exit::CheckFailed } else { Exit::Ok })
    }

    async fn over_api(&self, api: &Api, checkpoint: &'static str, output: Output) -> Result<Exit, Failure> {
        #[derive(Deserialize)]
        struct Page {
            log_id: LogId,
            to: u64,
            changes: Vec<Value>,
            next_after: u64,
        }
        let mut log = self.of.log.map(LogId);
        let from = self.of.position(api, self.from, self.after_time, &mut log).await?;
        let from = from.expect("the command line requires one of them");
        let mut to = self.of.position(api, self.to, self.as_of, &mut log).await?;
        if let Some(to) = to {
            check_order(from, to)?;
        }
        let bar = ProgressReporter::new(checkpoint, 0);
        let mut printer = RowPrinter::new(output);
        let mut after: Option<u64> = None;
        loop {
            let mut parameters = vec![("from", from.to_string()), ("limit", PAGE_SIZE.to_string())];
            parameters.extend(to.map(|to| ("to", to.to_string())));
            parameters.extend(log.map(|log| ("log", log.to_string())));
            parameters.extend(after.map(|after| ("after", after.to_string())));
            let path = format!("/v1/audit/read-models/{checkpoint}/changes");
            let page: Page = api.json(&path, &parameters).await?;
            bar.set_total(page.to.saturating_sub(from));
            (to, log, after) = (Some(page.to), Some(page.log_id), Some(page.next_after));
            if !printer.changes(page.changes)? || page.next_after >= page.to {
                bar.end();
                printer.end()?;
                let (to, log) = (page.to, page.log_id);
                let count = printer.count;
                eprintln!("{checkpoint} from position {from} to position {to} of {log}: {count} rows differ");
                return Ok(Exit::Ok);
            }
            bar.at(page.next_after.saturating_sub(from));
        }
    }
}

fn check_order(from: u64, to: u64) -> Result<(), Failure> {
    if from <= to { Ok(()) } else { Err(Failure::usage(anyhow!("the second state is before the first"))) }
}

async fn compute(
    tenant: &TenantStore,
    checkpoint: &'static str,
    log: LogId,
    wanted: ReplayTarget,
) -> Result<HistoricReadModel, Failure> {
    let total = match wanted {
        ReplayTarget::At(at) => at,
        ReplayTarget::Between(_, to) => to,
        ReplayTarget::Serving(from) => from.unwrap_or(0),
    };
    let bar = ProgressReporter::new(checkpoint, total);
    let progress = |position, _| bar.at(position);
    let replayed = projections::replay(tenant, checkpoint, log, wanted, &progress).await;
    bar.end();
    replayed.map_err(failure)
}

fn failure(error: HistoricStateError) -> Failure {
    match error {
        HistoricStateError::Store(error @ store::StoreError::LogReplaced { .. }) => {
            Failure::new(Exit::NotFound, error)
        }
        HistoricStateError::Store(error) => error.into(),
        error @ HistoricStateError::Unknown(_) => Failure::new(Exit::NotFound, error),
        error @ HistoricStateError::Beyond { .. } => Failure::new(Exit::Rejected, error),
        error @ HistoricStateError::OtherLog => Failure::new(Exit::Conflict, error),
        error @ HistoricStateError::Poison { .. } => Failure::new(Exit::Failed, error),
    }
}

/// Prints rows page by page.
struct RowPrinter {
    output: Output,
    out: BufWriter<Stdout>,
    /// The number of rows.
    count: u64,
}

impl RowPrinter {
    fn new(output: Output) -> Self {
        Self { output, out: BufWriter::new(io::stdout()), count: 0 }
    }

    /// Prints rows; each page starts a new table. `false` when the reader has closed the pipe.
    fn page(&mut self, rows: Vec<Value>) -> io::Result<bool> {
        let mut columns: Vec<&str> = rows
            .first()
            .and_then(Value::as_object)
            .map_or(Vec::new(), |row| row.keys().map(String::as_str).filter(|name| *name != "id").collect());
        columns.insert(0, "id");
        self.print(&columns, &rows)
    }

    /// Prints changes. A table shows them in words.
    fn changes<T: serde::Serialize>(&mut self, changes: Vec<T>) -> io::Result<bool> {
        let mut rows = changes.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
        if self.output == Output::Table {
            for row in &mut rows {
                row["fields"] = describe_fields(&row["fields"]).into();
            }
        }
        self.print(&["id", "kind", "fields"], &rows)
    }

    fn print(&mut self, columns: &[&str], rows: &[Value]) -> io::Result<bool> {
        let before = self.count;
        self.count += rows.len() as u64;
        let printed = match self.output {
            Output::Table if rows.is_empty() && before > 0 => Ok(()),
            Output::Table => table(columns, rows).and_then(|table| writeln!(self.out, "{table}")),
            Output::Jsonl => rows.iter().try_for_each(|row| json_line(&mut self.out, row)),
            Output::Json => rows.iter().zip(before..).try_for_each(|(row, number)| {
                write!(self.out, "{}", if number == 0 { "[" } else { "," })?;
                json_line(&mut self.out, row)
            }),
        };
        match printed.and_then(|()| self.out.flush()) {
            Ok(()) => Ok(true),
            Err(error) => ignore_broken_pipe(error).map(|()| false),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        if self.output == Output::Json {
            let end = if self.count == 0 { "[]" } else { "]" };
            return writeln!(self.out, "{end}").and_then(|()| self.out.flush()).or_else(ignore_broken_pipe);
        }
        Ok(())
    }
}

/// `name: "Ada" -> "Bo", ...`
fn describe_fields(fields: &Value) -> String {
    let shown = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
    let field = |(name, change): (&String, &Value)| {
        format!("{name}: {} -> {}", shown(change.get("before")), shown(change.get("after")))
    };
    let fields = fields.as_object().map(|fields| fields.iter().map(field).collect::<Vec<_>>());
    fields.unwrap_or_default().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_reads_as_words() {
        let fields = json!({"name": {"before": "Ada", "after": "Bo"}, "notes": {"after": null}});
        assert_eq!(describe_fields(&fields), r#"name: "Ada" -> "Bo", notes: nothing -> null"#);
    }
}
