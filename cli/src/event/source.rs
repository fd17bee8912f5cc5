//! The source of a replay: the database or the API.

use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use projections::LogPosition;
use schemas::engine::{InvalidValue, LogId};
use serde::Deserialize;
use serde_json::value::RawValue;
use store::{LogFilter, StreamFilter, TenantRecord, TenantStore};

use super::Replay;
use super::printer::PrintableEvent;
use crate::remote::Api;
use crate::{Exit, Failure};

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

/// The source of events.
pub enum Source<'a> {
    Database(TenantStore, Arc<TenantRecord>),
    Api(&'a Api),
}

/// Events after a position.
pub struct EventPage {
    pub log: LogId,
    pub events: Vec<PrintableEvent>,
    /// The last position that was checked.
    pub next_after: u64,
    /// The head of the log.
    pub head: u64,
}

impl Source<'_> {
    /// A page of events after a position. `log` is the expected log id, if any.
    pub async fn page(&self, replay: &Replay, log: Option<LogId>, after: u64) -> Result<EventPage, Failure> {
        match self {
            Self::Database(tenant, record) => {
                let stream = replay.stream.as_ref().map(|stream| stream.filter.clone());
                let filter = LogFilter { types: replay.types.clone(), stream };
                let page = tenant.read_log_page(after, None, PAGE_SIZE, &filter).await?;
                if log.is_some_and(|log| log != page.log_id) {
                    let detail = anyhow::anyhow!("the tenant's log is now {}", page.log_id);
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
            Self::Api(api) => {
                let mut parameters = vec![("after", after.to_string()), ("limit", PAGE_SIZE.to_string())];
                parameters.extend(replay.types.iter().map(|pattern| ("type", pattern.to_string())));
                parameters.extend(replay.stream.as_ref().map(|stream| ("stream", stream.text.clone())));
                parameters.extend(log.map(|log| ("log", log.to_string())));
                fetch_page(api, &parameters).await
            }
        }
    }

    /// The position of the log at a time.
    pub async fn moment(&self, time: DateTime<Utc>) -> Result<LogPosition, Failure> {
        match self {
            Self::Database(tenant, _) => Ok(projections::log_position_at(tenant, Some(time)).await?),
            Self::Api(api) => api.moment(time).await,
        }
    }
}

/// A page of `GET /v1/events`.
pub async fn fetch_page(api: &Api, parameters: &[(&str, String)]) -> Result<EventPage, Failure> {
    #[derive(Deserialize)]
    struct Body {
        log_id: LogId,
        events: Vec<Box<RawValue>>,
        next_after: u64,
        head: u64,
    }
    let body: Body = api.json("/v1/events", parameters).await?;
    Ok(EventPage {
        log: body.log_id,
        events: body
            .events
            .iter()
            .map(|event| PrintableEvent::from_api(event.get()))
            .collect::<Result<_, _>>()?,
        next_after: body.next_after,
        head: body.head,
    })
}
