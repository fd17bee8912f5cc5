//! `annals event replay`: prints a tenant's events between two bounds, page by page. If it ends early, it prints where
//! to resume.

use std::sync::{Mutex, PoisonError};

use anyhow::anyhow;
use schemas::engine::LogId;

use super::Replay;
use super::printer::{PrintError, Printer};
use super::source::Source;
use crate::progress::ProgressReporter;
use crate::{Exit, Failure};

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

impl Replay {
    /// Prints all events between the bounds.
    pub async fn run(
        &self,
        source: &Source<'_>,
        printer: &mut Printer,
        resume: &ResumePosition,
    ) -> Result<(), PrintError> {
        let (mut log, mut first, mut last) = (self.log(), self.from.max(1), self.to);
        if let Some(time) = self.after_time {
            let moment = source.moment(time).await?;
            first = first.max(moment.position + 1);
            check_log_id(&mut log, moment.log)?;
        }
        if let Some(time) = self.as_of {
            let moment = source.moment(time).await?;
            last = Some(last.map_or(moment.position, |last| last.min(moment.position)));
            check_log_id(&mut log, moment.log)?;
        }
        let mut after = first - 1;
        let mut progress: Option<ProgressReporter> = None;
        loop {
            let page = source.page(self, log, after).await?;
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
}

/// Times refer to the tenant's present log, so they cannot be combined with positions of another one.
fn check_log_id(expected: &mut Option<LogId>, current: LogId) -> Result<(), Failure> {
    match expected.replace(current) {
        Some(expected) if expected != current => Err(Failure::new(
            Exit::NotFound,
            anyhow!("the log was replaced; the tenant's log is now {current}"),
        )),
        _ => Ok(()),
    }
}
