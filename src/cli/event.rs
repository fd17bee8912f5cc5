//! `annals event`: follows and replays history, as CloudEvents or as lines for people.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufWriter, Stdout, Write};
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use futures::{StreamExt, TryStreamExt, pin_mut};
use indicatif::{ProgressBar, ProgressStyle};
use schemas::engine::recorded::timestamp;
use schemas::engine::{RecordedEvent, TenantId, TenantSlug, TypePattern};
use store::{LogFilter, Store, TenantRecord};
use tokio::sync::broadcast::error::RecvError;

use super::output::{json_line, reader_left};
use super::{Exit, Failure, Output, operator, tenant};
use crate::config::Settings;
use crate::{signals, wiring};

/// `annals event ...`
#[derive(Debug, Subcommand)]
pub enum Event {
    /// Follow events as they come, until Ctrl-C
    Tail(Tail),
    /// Print a tenant's history
    Replay(Replay),
}

/// `annals event tail ...`
#[derive(Debug, Args)]
pub struct Tail {
    /// Of this tenant [default: all tenants]
    #[arg(long, value_parser = |text: &str| TenantSlug::parse(text))]
    tenant: Option<TenantSlug>,
    /// Types to show, with NATS wildcards: `crm.>`, `*.user.*.v1`
    #[arg(long = "type", value_name = "PATTERN", value_parser = |text: &str| text.parse::<TypePattern>())]
    types: Vec<TypePattern>,
    /// Start behind this position [default: at the end]
    #[arg(long, value_name = "N", requires = "tenant")]
    after: Option<u64>,
}

/// `annals event replay ...`
#[derive(Debug, Args)]
pub struct Replay {
    /// The tenant
    #[arg(long, value_parser = |text: &str| TenantSlug::parse(text))]
    tenant: TenantSlug,
    /// The first position
    #[arg(long, value_name = "N", default_value_t = 1)]
    from: u64,
    /// The last position [default: the end of the log]
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    /// Only what was recorded by this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    as_of: Option<DateTime<Utc>>,
}

impl Event {
    /// Runs it.
    pub async fn run(self, settings: &Settings, output: Output) -> Result<Exit, Failure> {
        let store = wiring::connect(settings).await?;
        let mut printer = Printer { output, out: BufWriter::new(io::stdout()) };
        let mut stop = signals::Stop::listen()?;
        let work = async {
            match self {
                Self::Tail(tail) => tail.run(&store, &mut printer).await,
                Self::Replay(replay) => replay.run(&store, &mut printer).await,
            }
        };
        let done = tokio::select! {
            done = work => done,
            () = stop.asked() => Ok(()),
        };
        store.shutdown().await;
        match done {
            Ok(()) | Err(Stopped::ReaderLeft) => Ok(Exit::Ok),
            Err(Stopped::Failed(failure)) => Err(failure),
        }
    }
}

/// Why printing ended early.
enum Stopped {
    ReaderLeft,
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Tail {
    async fn run(self, store: &Store, printer: &mut Printer) -> Result<(), Stopped> {
        let filter = LogFilter { types: self.types, stream: None };
        let Some(slug) = &self.tenant else { return follow_all(store, filter, printer).await };
        let record = tenant::find(store, slug).await?;
        operator::touches(store, [record.id]).await?;
        let handle = store.tenant(record.id);
        let after = match self.after {
            Some(after) => after,
            None => handle.head().await?.position,
        };
        let events = handle.tail(None, after, filter);
        pin_mut!(events);
        while let Some(event) = events.try_next().await? {
            printer.print(&event, &record)?;
            printer.flush()?;
        }
        Ok(())
    }
}

/// Follows every tenant from its head on, and tenants that are opened meanwhile from their beginning.
async fn follow_all(store: &Store, filter: LogFilter, printer: &mut Printer) -> Result<(), Stopped> {
    const PAGE: usize = 500;
    let mut moves = store.head_moves();
    let mut marks: HashMap<TenantId, u64> =
        store.heads().await?.into_iter().map(|head| (head.tenant, head.position)).collect();
    // Only those whose events are shown.
    let mut told: HashSet<TenantId> = HashSet::new();
    loop {
        for head in store.heads().await? {
            let mark = marks.entry(head.tenant).or_insert(0);
            if *mark >= head.position {
                continue;
            }
            let Some(record) = store.tenant_by_id(head.tenant).await? else { continue };
            if told.insert(head.tenant) {
                operator::touches(store, [head.tenant]).await?;
            }
            while *mark < head.position {
                let page = store.tenant(head.tenant).read_log_page(*mark, None, PAGE, &filter).await?;
                for event in &page.events {
                    printer.print(event, &record)?;
                }
                printer.flush()?;
                *mark = page.scanned_to;
            }
        }
        // A hint may be missing when another process appends: look once a second in any case.
        match tokio::time::timeout(Duration::from_secs(1), moves.recv()).await {
            Ok(Err(RecvError::Closed)) => return Ok(()),
            Ok(Ok(_) | Err(RecvError::Lagged(_))) | Err(_) => {}
        }
    }
}

impl Replay {
    async fn run(self, store: &Store, printer: &mut Printer) -> Result<(), Stopped> {
        let record = tenant::find(store, &self.tenant).await?;
        operator::touches(store, [record.id]).await?;
        let handle = store.tenant(record.id);
        let head = handle.head().await?.position;
        let last = self.to.unwrap_or(head).min(head);
        let first = self.from.max(1);
        let progress = ProgressBar::new((last + 1).saturating_sub(first)).with_style(
            ProgressStyle::with_template("{bar:40} {pos}/{len} events, {per_sec}, {eta}")
                .expect("the template is well formed"),
        );
        if first <= last {
            let events = handle.read_log(first - 1, LogFilter::default());
            pin_mut!(events);
            while let Some(event) = events.next().await.transpose()? {
                let later = self.as_of.is_some_and(|time| event.recorded_at > time);
                if event.position > last || later {
                    break;
                }
                printer.print(&event, &record)?;
                progress.inc(1);
            }
        }
        progress.finish_and_clear();
        printer.flush()
    }
}

struct Printer {
    output: Output,
    out: BufWriter<Stdout>,
}

impl Printer {
    /// Writes one event. As JSON it is one object a line in either form: a stream has no end to close an array at.
    fn print(&mut self, event: &RecordedEvent, record: &TenantRecord) -> Result<(), Stopped> {
        let out = &mut self.out;
        let written = match self.output {
            Output::Table => writeln!(
                out,
                "{} {} {} {} {} {}",
                timestamp(event.recorded_at),
                record.slug,
                event.position,
                event.event_type,
                event.stream,
                event.metadata.actor
            ),
            Output::Json | Output::Jsonl => {
                let event = event.to_cloud_event(&record.slug).map_err(anyhow::Error::from)?;
                json_line(out, &event)
            }
        };
        written.map_err(stopped)
    }

    /// Shows what was written: a follower reads along.
    fn flush(&mut self) -> Result<(), Stopped> {
        self.out.flush().map_err(stopped)
    }
}

fn stopped(error: io::Error) -> Stopped {
    match reader_left(error) {
        Ok(()) => Stopped::ReaderLeft,
        Err(error) => error.into(),
    }
}
