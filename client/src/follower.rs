//! Follows the events of a tenant's log as server-sent events. A stream that ends is resumed at its last position.

use std::time::Duration;

use reqwest::Response;
use schemas::engine::{LogId, TypePattern};

use crate::{Client, Error, EventsRequest, Pause};

/// Maximum streams in a row that end without an event. Then following fails.
const EMPTY_STREAMS_MAX: u32 = 5;
/// The pause before a stream is reopened.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Maximum length of a line in bytes. An event has at most 256 KiB plus its attributes.
const LINE_BYTES_MAX: usize = 2 << 20;

/// The events of a log from a position on.
#[derive(Debug)]
pub struct EventFollower<'a> {
    client: &'a Client,
    types: &'a [TypePattern],
    log: LogId,
    stream: Option<OpenStream>,
    /// The last position that was received or that the filter has skipped.
    position: u64,
    /// Streams in a row that ended without an event.
    empty_streams: u32,
}

/// A stream of server-sent events.
#[derive(Debug)]
struct OpenStream {
    answer: Response,
    /// The position that it began after.
    from: u64,
    /// Bytes that were received and not read yet.
    rest: Vec<u8>,
    /// The id of the event that is being received. It is valid from the empty line that ends the event.
    id: Option<u64>,
    data: Option<String>,
}

impl Client {
    /// Follows the log from behind a position; `None` is its end. `types` are patterns, empty for all types.
    ///
    /// # Errors
    /// As [`Client::events`], which finds the log and its head.
    pub async fn follow_events<'a>(
        &'a self,
        types: &'a [TypePattern],
        after: Option<u64>,
    ) -> Result<EventFollower<'a>, Error> {
        let beginning = self.events(&EventsRequest { limit: 1, ..EventsRequest::default() }).await?;
        Ok(EventFollower {
            client: self,
            types,
            log: beginning.log_id,
            stream: None,
            position: after.unwrap_or(beginning.head),
            empty_streams: 0,
        })
    }
}

impl EventFollower<'_> {
    /// Waits for the next event, a CloudEvent in JSON.
    ///
    /// # Errors
    /// [`Error::Transport`] and [`Error::Refused`] when a stream cannot be opened. [`Error::BrokenOff`] or
    /// [`Error::StreamKeepsEnding`] after five streams in a row without an event. [`Error::LogReplaced`] when the
    /// tenant has another log, [`Error::LineTooLong`] for a line above 2 MiB.
    pub async fn next(&mut self) -> Result<String, Error> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.stream = Some(self.open().await?);
                continue;
            };
            if let Some(event) = stream.next_event(&mut self.position, self.log)? {
                return Ok(event);
            }
            match stream.answer.chunk().await {
                Ok(Some(more)) => stream.rest.extend_from_slice(&more),
                ended => self.pause_after(ended.err()).await?,
            }
        }
    }

    async fn open(&self) -> Result<OpenStream, Error> {
        let mut parameters = vec![("after", self.position.to_string()), ("log", self.log.to_string())];
        parameters.extend(self.types.iter().map(|pattern| ("type", pattern.to_string())));
        let answer = self.client.get("/v1/events/stream", &parameters).await?;
        Ok(OpenStream { answer, from: self.position, rest: Vec::new(), id: None, data: None })
    }

    /// Waits before the next stream is opened.
    ///
    /// # Errors
    /// Too many streams in a row ended without an event.
    async fn pause_after(&mut self, error: Option<reqwest::Error>) -> Result<(), Error> {
        let began = self.stream.take().map_or(0, |stream| stream.from);
        self.empty_streams = if self.position > began { 0 } else { self.empty_streams + 1 };
        let error = error.map(Error::BrokenOff);
        if self.empty_streams >= EMPTY_STREAMS_MAX {
            return Err(error.unwrap_or(Error::StreamKeepsEnding));
        }
        if let Some(error) = &error {
            self.client.tell(Pause::Resume { error, position: self.position });
        }
        tokio::time::sleep(RECONNECT_DELAY).await;
        Ok(())
    }
}

impl OpenStream {
    /// The next event that was received completely. `position` follows what was read.
    fn next_event(&mut self, position: &mut u64, log: LogId) -> Result<Option<String>, Error> {
        let mut begin = 0;
        let mut event = None;
        while let Some(length) = self.rest[begin..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.rest[begin..begin + length]).into_owned();
            begin += length + 1;
            event = self.read_line(line.trim_end_matches('\r'), position, log)?;
            if event.is_some() {
                break;
            }
        }
        self.rest.drain(..begin);
        if event.is_none() && self.rest.len() > LINE_BYTES_MAX {
            return Err(Error::LineTooLong);
        }
        Ok(event)
    }

    fn read_line(&mut self, line: &str, position: &mut u64, log: LogId) -> Result<Option<String>, Error> {
        if let Some(data) = line.strip_prefix("data:") {
            self.data = Some(data.trim_start().to_owned());
        } else if let Some(id) = line.strip_prefix("id:") {
            self.id = id.trim().parse().ok();
        } else if line.is_empty() {
            // An id without data is a position that the filter has skipped.
            *position = self.id.take().unwrap_or(*position);
            return Ok(self.data.take());
        } else if line.starts_with(": closed log_replaced") {
            return Err(Error::LogReplaced { position: *position, log });
        }
        Ok(None)
    }
}
