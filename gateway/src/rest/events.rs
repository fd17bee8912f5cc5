//! `GET /v1/events`: a tenant's log by pages, as CloudEvents.

use access::policy::EVENTS_READ;
use axum::http::Uri;
use axum::response::Response;
use schemas::engine::{InvalidValue, LogId, RecordedEvent, TypePattern};
use serde_json::{Value, json};
use store::{LogFilter, PageLimit, StreamFilter, TenantStore};

use super::event_pages::{self, EventLocation, EventSource};
use crate::auth::Caller;
use crate::http::log_id::check_log_id;
use crate::http::route::Route;
use crate::http::{Digits, FieldError, Problem, query};
use crate::routes::Routes;

const PAGE_SIZE_DEFAULT: u64 = 100;
const PAGE_SIZE_MAX: u64 = 1_000;
/// Maximum patterns of a request. More than clients need, and few enough to match quickly.
const PATTERNS_MAX: usize = 50;

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    routes.add(Route::get("/v1/events", &EVENTS_READ), page)
}

/// The parameters of a request for events.
#[derive(Debug, Clone)]
pub struct EventsQuery {
    /// Only events after this position.
    pub after: u64,
    /// Maximum events of a page.
    pub limit: u64,
    /// The events to return.
    pub filter: LogFilter,
    /// The log id that `after` belongs to. `None`: the present log.
    pub log: Option<LogId>,
    /// The ticket in place of an access token.
    pub ticket: Option<String>,
}

/// Returns one page. `next_after` is the last position that was checked, even if that event did not match.
async fn page(caller: Caller, uri: Uri) -> Result<Response, Problem> {
    let EventsQuery { after, limit, filter, log, .. } = EventsQuery::for_page(&uri)?;
    let store = caller.store.clone();
    let source = LogSource { store, filter, requested_log: log, scanned_to: after, read: None };
    event_pages::respond(caller, limit as usize, source).await
}

/// A page of a tenant's log.
struct LogSource {
    store: TenantStore,
    filter: LogFilter,
    /// The log id that the client named.
    requested_log: Option<LogId>,
    scanned_to: u64,
    /// The log id and its head when the page began.
    read: Option<(LogId, u64)>,
}

impl EventSource for LogSource {
    async fn read(&mut self, limit: PageLimit) -> Result<Vec<RecordedEvent>, Problem> {
        let up_to = self.read.map(|(_, head)| head);
        let page = self.store.read_log_page_within(self.scanned_to, up_to, limit, &self.filter).await?;
        let requested_log = self.read.map(|(log, _)| log).or(self.requested_log);
        check_log_id(&self.store, requested_log, page.log_id).await?;
        if self.read.is_none() && self.scanned_to > page.head {
            return Err(Problem::bad_request(format!("the log ends at position {}", page.head)));
        }
        self.read.get_or_insert((page.log_id, page.head));
        self.scanned_to = page.scanned_to;
        Ok(page.events)
    }

    fn has_more_after(&self, last: &RecordedEvent) -> bool {
        // A chunk that reached its limit was checked up to its last event.
        self.scanned_to == last.position && self.read.is_some_and(|(_, head)| last.position < head)
    }

    fn leading_fields(&self) -> Value {
        json!({ "log_id": self.read.map(|(log, _)| log) })
    }

    fn trailing_fields(&self, truncated_after: Option<EventLocation>) -> Value {
        let next_after = truncated_after.map_or(self.scanned_to, |last| last.position);
        json!({ "next_after": next_after, "head": self.read.map(|(_, head)| head) })
    }
}

/// Parses a position in decimal digits.
pub fn position(text: &str) -> Option<u64> {
    Digits::parse(text).map(|digits| digits.0)
}

impl EventsQuery {
    /// The parameters of `GET /v1/events`.
    ///
    /// # Errors
    /// `bad_request` when the query does not decode, or a parameter is malformed or repeated; `invalid` when one is
    /// unknown or out of bounds.
    pub fn for_page(uri: &Uri) -> Result<Self, Problem> {
        Self::read(uri, true)
    }

    /// The parameters of `GET /v1/events/stream` and `GET /v1/events/ws`.
    ///
    /// # Errors
    /// As [`for_page`](Self::for_page).
    pub fn for_stream(uri: &Uri) -> Result<Self, Problem> {
        Self::read(uri, false)
    }

    fn read(uri: &Uri, paged: bool) -> Result<Self, Problem> {
        let pairs = query::pairs(uri)?;
        let mut query = Self {
            after: 0,
            limit: PAGE_SIZE_DEFAULT,
            filter: LogFilter::default(),
            log: None,
            ticket: None,
        };
        let (mut malformed, mut invalid) = (Vec::new(), Vec::new());
        let mut seen: Vec<String> = Vec::new();
        for (name, value) in pairs {
            if name != "type" && seen.contains(&name) {
                malformed.push(FieldError::new(&*name, InvalidValue::new("repeated", "must be given once")));
                continue;
            }
            let number = InvalidValue::new("type_invalid", "must be a whole number");
            match name.as_str() {
                "after" => match position(&value) {
                    Some(after) => query.after = after,
                    None => malformed.push(FieldError::new("after", number)),
                },
                "limit" if paged => match position(&value) {
                    Some(limit @ 1..=PAGE_SIZE_MAX) => query.limit = limit,
                    Some(_) => {
                        let problem =
                            InvalidValue::new("limit_invalid", format!("must be 1 to {PAGE_SIZE_MAX}"));
                        invalid.push(FieldError::new("limit", problem));
                    }
                    None => malformed.push(FieldError::new("limit", number)),
                },
                "type" => {
                    for pattern in value.split(',') {
                        match pattern.trim().parse::<TypePattern>() {
                            Ok(pattern) => query.filter.types.push(pattern),
                            Err(problem) => invalid.push(FieldError::new("type", problem)),
                        }
                    }
                }
                "stream" => match value.parse::<StreamFilter>() {
                    Ok(stream) => query.filter.stream = Some(stream),
                    Err(problem) => invalid.push(FieldError::new("stream", problem)),
                },
                "log" => {
                    query.log = value.parse().ok().map(LogId);
                    if query.log.is_none() {
                        let problem = InvalidValue::new("type_invalid", "must be the UUID of a log");
                        malformed.push(FieldError::new("log", problem));
                    }
                }
                "ticket" if !paged => query.ticket = Some(value),
                unknown => {
                    let shown: String = unknown.chars().take(64).collect();
                    let problem = InvalidValue::new("unknown_field", "is not a parameter of this request");
                    invalid.push(FieldError::new(shown, problem));
                }
            }
            seen.push(name);
        }
        if query.filter.types.len() > PATTERNS_MAX {
            let problem = InvalidValue::new("too_many", format!("at most {PATTERNS_MAX} patterns"));
            invalid.push(FieldError::new("type", problem));
        }
        malformed.truncate(20);
        invalid.truncate(20);
        if !malformed.is_empty() {
            return Err(Problem::bad_request("some parameters are malformed").errors(malformed));
        }
        if !invalid.is_empty() {
            return Err(Problem::invalid(invalid));
        }
        Ok(query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ErrorCode;

    fn read(query: &str) -> Result<EventsQuery, ErrorCode> {
        let uri: Uri = format!("/v1/events?{query}").parse().expect("a URI");
        EventsQuery::for_page(&uri).map_err(|problem| problem.code())
    }

    #[test]
    fn everything_is_optional() {
        let query = read("").expect("fine");
        assert_eq!((query.after, query.limit, query.log), (0, 100, None));
        assert_eq!(query.filter, LogFilter::default());
    }

    #[test]
    fn type_patterns_come_with_commas_or_repeated() {
        let query = read("type=crm.%3E,*.user.*.v1&type=identity.%3E&after=7&limit=1000").expect("fine");
        assert_eq!((query.filter.types.len(), query.after, query.limit), (3, 7, 1_000));
    }

    #[test]
    fn streams_are_exact_or_a_category() {
        assert!(matches!(
            read("stream=crm.customer/*").expect("fine").filter.stream,
            Some(StreamFilter::Category(_))
        ));
        assert!(matches!(
            read("stream=crm.customer/1").expect("fine").filter.stream,
            Some(StreamFilter::Exact(_))
        ));
        assert_eq!(read("stream=crm").err(), Some(ErrorCode::Invalid));
    }

    #[test]
    fn wrong_types_are_bad_requests_and_wrong_values_invalid() {
        for malformed in [
            "after=x",
            "after=-1",
            "after=%2B1",
            "after=99999999999999999999",
            "log=1",
            "limit=x",
            "after=1&after=2",
        ] {
            assert_eq!(read(malformed).err(), Some(ErrorCode::BadRequest), "{malformed}");
        }
        for invalid in ["limit=0", "limit=1001", "type=a..b", "colour=red"] {
            assert_eq!(read(invalid).err(), Some(ErrorCode::Invalid), "{invalid}");
        }
        let uri: Uri = "/v1/events/stream?limit=1".parse().expect("a URI");
        assert!(EventsQuery::for_stream(&uri).is_err());
    }
}
