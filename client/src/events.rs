//! Pages of a tenant's events.

use schemas::engine::{LogId, TypePattern};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Client, Error};

/// Which events a page holds.
#[derive(Debug, Clone, Default)]
pub struct EventsRequest<'a> {
    /// Events after this position; `None` is the beginning of the log.
    pub after: Option<u64>,
    /// Maximum number of events.
    pub limit: usize,
    /// Patterns of types; empty for all types.
    pub types: &'a [TypePattern],
    /// One stream, `<category>/<id>`, or all of a category, `<category>/*`.
    pub stream: Option<&'a str>,
    /// The log that the positions belong to. The server refuses the request if the tenant has another one.
    pub log: Option<LogId>,
}

/// A page of events.
#[derive(Debug, Deserialize)]
pub struct EventsPage {
    /// The log.
    pub log_id: LogId,
    /// The events as CloudEvents, in the order of their positions.
    pub events: Vec<Box<RawValue>>,
    /// The last position that was checked.
    pub next_after: u64,
    /// The head of the log.
    pub head: u64,
}

impl Client {
    /// A page of events.
    ///
    /// # Errors
    /// [`Error::Transport`] without a complete answer, [`Error::Unreadable`] when it is not a page of events.
    /// [`Error::Refused`] when the server refuses the request, for example because the log was replaced.
    pub async fn events(&self, request: &EventsRequest<'_>) -> Result<EventsPage, Error> {
        let mut parameters = Vec::new();
        parameters.extend(request.after.map(|after| ("after", after.to_string())));
        parameters.push(("limit", request.limit.to_string()));
        parameters.extend(request.types.iter().map(|pattern| ("type", pattern.to_string())));
        parameters.extend(request.stream.map(|stream| ("stream", stream.to_owned())));
        parameters.extend(request.log.map(|log| ("log", log.to_string())));
        self.json("/v1/events", &parameters).await
    }
}
