//! `annals event replay`: prints a tenant's events between two bounds, page by page. If it ends early, it prints where
//! to resume.

use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use anyhow::anyhow;
use chrono::{DateTime, Utc};
use clap::Args;
use client::EventsRequest;
use schemas::engine::{InvalidValue, LogId, TenantSlug, TypePattern};
use store::{LogFilter, StreamFilter};

use super::printer::{PrintError, PrintableEvent, Printer};
use crate::failure::Failure;
use crate::progress::ProgressReporter;
use crate::remote::Access;
use crate::source::{Source, TenantSource};
use terminal::Exit;
use uuid::Uuid;

/// Events in a page.
const PAGE_SIZE: usize = 500;

/// A filter on streams, and its text.
#[derive(Debug, Clone)]
pub struct StreamArgument {
    text: String,
    filter: StreamFilter,
}

impl FromStr for StreamArgument {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self { text: text.to_owned(), filter: text.parse()? })
    }
}

/// The position that a replay has reached, to resume there.
#[derive(Default)]
pub struct ResumePosition(Mutex<Option<(LogId, u64)>>);

impl ResumePosition {
    fn set(&self, log: LogId, position: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((log, position));
    }

    /// Prints where to resume, if anything was read.
    pub fn print_hint(&self) {
        if let Some((log, position)) = *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            eprintln!("stopped behind position {position}; go on with --from {} --log {log}", position + 1);
        }
    }
}

/// Events after a position.
struct EventPage {
    log: LogId,
    events: Vec<PrintableEvent>,
    /// The last position that was checked.
    next_after: u64,
    /// The head of the log.
    head: u64,
}

/// `annals event replay ...`
#[derive(Debug, Args)]
pub struct Replay {
    /// The tenant [over the API: that of the token]
    #[arg(long, value_parser = |text: &str| TenantSlug::parse(text), required_unless_present = "token_file")]
    pub(super) tenant: Option<TenantSlug>,
    /// Types to print, with NATS wildcards: `crm.>`, `*.user.*.v1`
    #[arg(long = "type", value_name = "PATTERN", value_parser = |text: &str| text.parse::<TypePattern>())]
    types: Vec<TypePattern>,
    /// One stream, `<category>/<id>`, or all of a category, `<category>/*`
    #[arg(long, value_name = "STREAM")]
    stream: Option<StreamArgument>,
    /// The first position
    #[arg(long, value_name = "N", default_value_t = 1)]
    from: u64,
    /// The last position [default: the end of the log]
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    /// Only events recorded after this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    after_time: Option<DateTime<Utc>>,
    /// Only events recorded by this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    as_of: Option<DateTime<Utc>>,
    /// The log id that the positions belong to; an error when the tenant's log has another id
    #[arg(long, value_name = "ID")]
    log: Option<Uuid>,
    #[command(flatten)]
    pub(super) access: Access,
}

impl Replay {
    /// Prints all events between the bounds.
    pub async fn print(
        &self,
        source: &Source,
        printer: &mut Printer,
        resume: &ResumePosition,
    ) -> Result<(), PrintError> {
        let (mut log, mut first, mut last) = (self.log.map(LogId), self.from.max(1), self.to);
        if let Some(time) = self.after_time {
            let position = source.position(None, Some(time), &mut log).await?;
            first = first.max(position.map_or(first, |position| position + 1));
        }
        if let Some(time) = self.as_of {
            let position = source.position(None, Some(time), &mut log).await?;
            last = position.into_iter().chain(last).min();
        }
        let mut after = first - 1;
        let mut progress: Option<ProgressReporter> = None;
        loop {
            let page = self.page(source, log, after).await?;
            log = Some(page.log);
            resume.set(page.log, after);
            // Events that are appended later are not printed.
            let end = last.unwrap_or(u64::MAX).min(page.head);
            last = Some(end);
            let bar = progress
                .get_or_insert_with(|| ProgressReporter::new("replay", (end + 1).saturating_sub(first)));
            for event in page.events.iter().take_while(|event| event.position <= end) {
                printer.print(event)?;
                resume.set(page.log, event.position);
            }
            printer.flush()?;
            if page.next_after >= end {
                bar.at((end + 1).saturating_sub(first));
                bar.end();
                return Ok(());
            }
            if page.next_after <= after {
                let detail = anyhow!("the log does not go on behind position {after}");
                return Err(Failure::new(Exit::Failed, detail).into());
            }
            after = page.next_after;
            resume.set(page.log, after);
            bar.at((after + 1).saturating_sub(first));
        }
    }

    /// A page of events after a position. `log` is the expected log id, if any.
    async fn page(&self, source: &Source, log: Option<LogId>, after: u64) -> Result<EventPage, Failure> {
        match source {
            Source::Database(TenantSource { tenant, record, .. }) => {
                let stream = self.stream.as_ref().map(|stream| stream.filter.clone());
                let filter = LogFilter { types: self.types.clone(), stream };
                let page = tenant.read_log_page(after, None, PAGE_SIZE, &filter).await?;
                if log.is_some_and(|log| log != page.log_id) {
                    let detail = anyhow!("the tenant's log is now {}", page.log_id);
                    return Err(Failure::new(Exit::NotFound, detail));
                }
                let events = page.events.iter().map(|event| PrintableEvent::from_record(event, record));
                Ok(EventPage {
                    log: page.log_id,
                    events: events.collect::<Result<_, _>>()?,
                    next_after: page.scanned_to,
                    head: page.head,
                })
            }
            Source::Api(client) => {
                let stream = self.stream.as_ref().map(|stream| &*stream.text);
                let request =
                    EventsRequest { after: Some(after), limit: PAGE_SIZE, types: &self.types, stream, log };
                let page = client.events(&request).await?;
                let events = page.events.iter().map(|event| PrintableEvent::from_api(event.get()));
                Ok(EventPage {
                    log: page.log_id,
                    events: events.collect::<Result<_, _>>()?,
                    next_after: page.next_after,
                    head: page.head,
                })
            }
        }
    }
}
