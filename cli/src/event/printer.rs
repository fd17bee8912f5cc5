//! Prints events on standard output: as CloudEvents, one on each line, or as a short readable line.

use std::io::{self, BufWriter, Stdout, Write};

use anyhow::Context;
use schemas::engine::RecordedEvent;
use serde::Deserialize;
use store::TenantRecord;

use crate::failure::Failure;
use terminal::Output;
use terminal::ignore_broken_pipe;

/// An event to print.
pub struct PrintableEvent {
    /// Its position in the log.
    pub position: u64,
    /// The CloudEvent.
    json: String,
}

/// The fields of an event in a readable line.
#[derive(Deserialize)]
struct EventSummary {
    time: String,
    tenantid: String,
    position: String,
    #[serde(rename = "type")]
    event_type: String,
    subject: String,
    actor: String,
}

/// Why printing ended early.
pub enum PrintError {
    OutputClosed,
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for PrintError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl PrintableEvent {
    /// An event from the database.
    pub fn from_record(event: &RecordedEvent, record: &TenantRecord) -> Result<Self, Failure> {
        let json = event.to_cloud_event(&record.slug).map_err(anyhow::Error::from)?;
        let json = serde_json::to_string(&json).map_err(anyhow::Error::from)?;
        Ok(Self { position: event.position, json: one_line(&json) })
    }

    /// An event from the API.
    pub fn from_api(json: &str) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct PositionField {
            position: String,
        }
        let field: PositionField = serde_json::from_str(json).context("an event does not read")?;
        let position = field.position.parse().context("an event's position is no number")?;
        Ok(Self { position, json: one_line(json) })
    }
}

/// Removes line breaks between the tokens of a payload. JSON has none within strings.
fn one_line(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

/// Prints events.
pub struct Printer {
    output: Output,
    out: BufWriter<Stdout>,
}

impl Printer {
    /// A printer to standard output.
    pub fn new(output: Output) -> Self {
        Self { output, out: BufWriter::new(io::stdout()) }
    }

    /// Prints one event. Both JSON formats print one object on each line: a stream has no end at which an array could
    /// close.
    pub fn print(&mut self, event: &PrintableEvent) -> Result<(), PrintError> {
        let out = &mut self.out;
        let written = match self.output {
            Output::Table => {
                let summary: EventSummary =
                    serde_json::from_str(&event.json).context("an event does not read")?;
                let EventSummary { time, tenantid, position, event_type, subject, actor } = summary;
                writeln!(out, "{time} {tenantid} {position} {event_type} {subject} {actor}")
            }
            Output::Json | Output::Jsonl => writeln!(out, "{}", event.json),
        };
        written.map_err(print_error)
    }

    /// Flushes the output, so that a follower shows each event at once.
    pub fn flush(&mut self) -> Result<(), PrintError> {
        self.out.flush().map_err(print_error)
    }
}

fn print_error(error: io::Error) -> PrintError {
    match ignore_broken_pipe(error) {
        Ok(()) => PrintError::OutputClosed,
        Err(error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_its_payload_looks_like() {
        let event = PrintableEvent::from_api("{\"position\":\"7\",\"data\":{\n  \"a\": \"x\\ny\"\r\n}}")
            .expect("reads");
        assert_eq!((event.position, event.json.lines().count()), (7, 1));
        let read: serde_json::Value = serde_json::from_str(&event.json).expect("is JSON");
        assert_eq!(read["data"]["a"], "x\ny");
    }
}
