//! `annals projection replay` and `diff`: a historical state of a read model and its changes, from the database or over
//! the API.

mod pages;
mod printer;

use chrono::{DateTime, Utc};
use clap::Args;
use schemas::engine::{LogId, TenantSlug};
use settings::Settings;
use terminal::{Exit, Output};
use uuid::Uuid;

use self::pages::{ChangePages, Compared, RowPages};
use self::printer::RowPrinter;
use crate::failure::Failure;
use crate::remote::Access;
use crate::source::Source;

/// The read model whose historical state is shown.
#[derive(Debug, Args)]
pub struct HistoryArguments {
    /// The read model: `customers` or `customers.v2`
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
    /// Runs a command on the API if a token was given, otherwise on the database.
    async fn run_on(
        &self,
        settings: impl Fn() -> Result<Settings, Failure>,
        work: impl AsyncFnOnce(&Source, &'static str) -> Result<Exit, Failure>,
    ) -> Result<Exit, Failure> {
        let checkpoint =
            projections::find(&self.name).ok_or_else(|| Failure::not_found("read model", &self.name))?;
        let source = Source::open(&self.access, self.tenant.as_ref(), settings).await?;
        let done = work(&source, checkpoint).await;
        source.close().await;
        done
    }
}

impl Replay {
    /// Runs it.
    pub async fn run(
        self,
        settings: impl Fn() -> Result<Settings, Failure>,
        output: Output,
    ) -> Result<Exit, Failure> {
        self.of.run_on(settings, async |source, of| self.print(source, of, output).await).await
    }

    async fn print(&self, source: &Source, of: &'static str, output: Output) -> Result<Exit, Failure> {
        let mut log = self.of.log.map(LogId);
        let at = source.position(self.at, self.as_of, &mut log).await?;
        let mut pages = RowPages::open(source, of, at, log).await?;
        let mut printer = RowPrinter::new(output);
        while let Some(rows) = pages.next().await? {
            if !printer.rows(rows)? {
                break;
            }
        }
        pages.end();
        printer.end()?;
        eprintln!("{of} at position {} of {}: {} rows", pages.at, pages.log, printer.count);
        Ok(Exit::Ok)
    }
}

impl Diff {
    /// Runs it.
    pub async fn run(
        self,
        settings: impl Fn() -> Result<Settings, Failure>,
        output: Output,
    ) -> Result<Exit, Failure> {
        self.of.run_on(settings, async |source, of| self.print(source, of, output).await).await
    }

    async fn print(&self, source: &Source, of: &'static str, output: Output) -> Result<Exit, Failure> {
        let mut log = self.of.log.map(LogId);
        let from = source.position(self.from, self.after_time, &mut log).await?;
        let from = from.expect("the command line requires it over the API, and the database finds one");
        let to = source.position(self.to, self.as_of, &mut log).await?;
        let is_bounded = self.from.is_some() || self.after_time.is_some();
        let compared = if self.serving {
            Compared::Serving { is_bounded }
        } else {
            check_order(from, to)?;
            Compared::Historic(to)
        };
        let mut pages = ChangePages::open(source, of, from, compared, log).await?;
        let mut printer = RowPrinter::new(output);
        while let Some(changes) = pages.next().await? {
            if !printer.changes(changes)? {
                break;
            }
        }
        pages.end();
        printer.end()?;
        let ChangePages { log, from, to, .. } = pages;
        let what = if self.serving { "the rows that serve, at position" } else { "position" };
        eprintln!("{of} from position {from} to {what} {to} of {log}: {} rows differ", printer.count);
        Ok(if self.serving && !is_bounded && printer.count > 0 { Exit::CheckFailed } else { Exit::Ok })
    }
}

fn check_order(from: u64, to: Option<u64>) -> Result<(), Failure> {
    if to.is_none_or(|to| from <= to) {
        return Ok(());
    }
    Err(Failure::usage(anyhow::anyhow!("the second state is before the first")))
}
