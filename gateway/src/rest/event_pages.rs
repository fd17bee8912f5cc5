//! Streams a page of events in chunks, so that its memory does not depend on the size of its events.

use access::policy::PERSONAL_DATA_READ;
use std::future::Future;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use schemas::engine::RecordedEvent;
use serde_json::Value;
use store::PageLimit;

use crate::auth::Caller;
use crate::http::Problem;
use crate::http::failures::Cause;

/// Maximum bytes of events in a page. A single event may be larger.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Maximum bytes of events that are read, decrypted and written at a time.
const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Supplies the events of a page.
pub trait EventSource: Send + 'static {
    /// The next events of the page, as stored. All must belong to the log of the first read.
    fn read(&mut self, limit: PageLimit) -> impl Future<Output = Result<Vec<RecordedEvent>, Problem>> + Send;

    /// Whether the page has more events after the last one read.
    fn has_more_after(&self, last: &RecordedEvent) -> bool;

    /// The fields of the body before the events, as an object. Called after the first read.
    fn leading_fields(&self) -> Value;

    /// The fields after the events. `truncated_after` is the last event in the page when it ends before the last event
    /// read.
    fn trailing_fields(&self, truncated_after: Option<EventLocation>) -> Value;
}

/// The numbers of an event.
#[derive(Debug, Clone, Copy)]
pub struct EventLocation {
    /// Its position in the log.
    pub position: u64,
    /// Its version in its stream.
    pub version: u64,
}

/// Streams a page of at most `limit` events.
///
/// # Errors
/// Errors of the first chunk. A later error closes the connection before the body is complete.
pub async fn respond<S: EventSource>(caller: Caller, limit: usize, source: S) -> Result<Response, Problem> {
    let mut page = EventPage {
        caller,
        source,
        events_left: limit,
        bytes_left: PAGE_BYTES_MAX,
        started: false,
        last: None,
    };
    let first = page.next_chunk().await?;
    let body = match first {
        Chunk::Last(bytes) => Body::from(bytes),
        Chunk::More(bytes) => Body::from_stream(async_stream::stream! {
            yield Ok(bytes);
            loop {
                match page.next_chunk().await {
                    Ok(Chunk::More(bytes)) => yield Ok(bytes),
                    Ok(Chunk::Last(bytes)) => {
                        yield Ok(bytes);
                        return;
                    }
                    Err(problem) => {
                        let cause = problem.logged_cause().map(|cause| Cause::of(cause).to_string());
                        tracing::warn!(code = problem.code().as_str(), cause, "a page of events broke off");
                        yield Err(std::io::Error::other(problem.code().as_str()));
                        return;
                    }
                }
            }
        }),
    };
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response())
}

/// The state of a page while it is written.
struct EventPage<S> {
    caller: Caller,
    source: S,
    events_left: usize,
    bytes_left: usize,
    started: bool,
    /// The last event that was written.
    last: Option<EventLocation>,
}

/// A part of the body.
enum Chunk {
    More(Bytes),
    Last(Bytes),
}

impl<S: EventSource> EventPage<S> {
    async fn next_chunk(&mut self) -> Result<Chunk, Problem> {
        let limit = PageLimit { events: self.events_left, bytes: CHUNK_BYTES_MAX };
        let events = self.source.read(limit).await?;
        let mut text = Vec::new();
        if !self.started {
            let leading_fields = self.source.leading_fields().to_string();
            text.extend_from_slice(leading_fields.trim_end_matches('}').as_bytes());
            text.extend_from_slice(b",\"events\":[");
            self.started = true;
        }
        let events = if self.caller.has_permission(&PERSONAL_DATA_READ) {
            self.caller.store.open_for_readers(events).await?
        } else {
            events
        };
        let mut truncated = false;
        for event in &events {
            let before = text.len();
            if self.last.is_some() {
                text.push(b',');
            }
            let cloud_event = event.to_cloud_event(&self.caller.record.slug).map_err(Problem::internal)?;
            serde_json::to_writer(&mut text, &cloud_event).map_err(Problem::internal)?;
            let bytes = text.len() - before;
            if bytes > self.bytes_left && self.last.is_some() {
                text.truncate(before);
                truncated = true;
                break;
            }
            self.bytes_left = self.bytes_left.saturating_sub(bytes);
            self.events_left = self.events_left.saturating_sub(1);
            self.last = Some(EventLocation { position: event.position, version: event.version });
        }
        let has_more = events.last().is_some_and(|last| self.source.has_more_after(last));
        if has_more && !truncated && self.events_left > 0 {
            return Ok(Chunk::More(text.into()));
        }
        text.extend_from_slice(b"],");
        let trailing_fields = self.source.trailing_fields(self.last.filter(|_| truncated)).to_string();
        text.extend_from_slice(trailing_fields.trim_start_matches('{').as_bytes());
        Ok(Chunk::Last(text.into()))
    }
}
