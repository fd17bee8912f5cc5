//! `GET /v1/events/stream`: a tenant's events as server-sent events. The id of each is its position, so that a client
//! that comes back with `Last-Event-ID` goes on where it stopped.

use std::convert::Infallible;
use std::time::Duration;

use async_stream::stream;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use schemas::engine::InvalidValue;
use tokio::time::Instant;

use super::closing::Closing;
use super::session::{Session, Step};
use crate::auth::{Caller, Watcher};
use crate::gateway::Gateway;
use crate::http::{ErrorCode, FieldError, Problem, RequestContext};
use crate::rest::events::{EventsQuery, same_log};

/// Follows the log: what is behind `after` (or `Last-Event-ID`), then whatever comes, until the client leaves, its token
/// expires, or the process stops. Whatever else ends a stream is said in a comment, behind an id to resume from.
pub async fn follow(
    State(gateway): State<Gateway>,
    request: RequestContext,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let query = EventsQuery::of_stream(&uri)?;
    let watcher = match &query.ticket {
        Some(ticket) => Watcher::with_ticket(ticket, uri.path(), &headers, &request, &gateway).await?,
        None => Watcher::from(Caller::of(&headers, None, &request, &gateway).await?)?,
    };
    let resumed = resumed_at(&headers)?;
    let after = resumed.unwrap_or(query.after);
    let place = gateway.stream_permit(watcher.record.id).await?;
    let follower = gateway.hub.follow(&watcher.record, after, query.filter).await?;
    let handle = gateway.store.tenant(watcher.record.id);
    same_log(&handle, query.log, follower.log_id()).await?;
    if resumed.is_some_and(|resumed| resumed > follower.end()) {
        // It was sent once, so it is a position of another log.
        let detail =
            format!("Last-Event-ID is beyond the end of the log, which is now {}", follower.log_id());
        return Err(Problem::new(ErrorCode::LogReplaced).detail(detail));
    }
    let session = Session::new("sse", follower, &watcher, &gateway, place);
    let body = Body::from_stream(events(session, gateway.config.slow_after));
    let mut response = body.into_response();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // Asks proxies in front not to collect the stream into larger pieces.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// The body: taken from piece by piece as the client has room, so that nothing but one piece waits for a slow one.
fn events(
    mut session: Session,
    slow_after: Duration,
) -> impl futures::Stream<Item = Result<Bytes, Infallible>> + Send {
    stream! {
        // A comment at once tells the client, and whatever stands between, that the stream is open.
        yield Ok(Bytes::from_static(b": open\n\n"));
        let mut told = session.at();
        loop {
            let closing = match session.step().await {
                Step::Frames(frames) => {
                    let begun = Instant::now();
                    for frame in frames {
                        told = frame.position;
                        yield Ok(frame.encoded(session.personal).sse.clone());
                        if begun.elapsed() > slow_after {
                            break;
                        }
                    }
                    if begun.elapsed() <= slow_after {
                        continue;
                    }
                    Closing::SlowConsumer
                }
                Step::Heartbeat => {
                    yield Ok(heartbeat(&mut told, session.at()));
                    continue;
                }
                Step::Closed(why) => why,
            };
            session.count_closed(closing);
            let at = if closing == Closing::SlowConsumer { told } else { session.at() };
            yield Ok(last_words(closing, at));
            return;
        }
    }
}

/// A comment; with an id where a filter has passed over events since the last one, so that a client that comes back does
/// not have them looked through again. Without data the id is no event.
fn heartbeat(told: &mut u64, at: u64) -> Bytes {
    if *told == at {
        return Bytes::from_static(b": heartbeat\n\n");
    }
    *told = at;
    format!(": heartbeat\nid: {at}\n\n").into()
}

fn last_words(why: Closing, at: u64) -> Bytes {
    if why.resumes() {
        return format!("id: {at}\n: closed {} after {at}\n\n", why.as_str()).into();
    }
    format!(": closed {}\n\n", why.as_str()).into()
}

fn resumed_at(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    // An empty id is what a client sends that has seen none (WHATWG HTML, section 9.2.3).
    let Some(given) = headers.get("last-event-id").filter(|given| !given.is_empty()) else { return Ok(None) };
    let position = given.to_str().ok().and_then(crate::rest::events::position);
    position.map(Some).ok_or_else(|| {
        let problem = InvalidValue::new("position_invalid", "must be the id of an event of this stream");
        Problem::bad_request("Last-Event-ID is not a position")
            .errors(vec![FieldError::new("Last-Event-ID", problem)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_resumes_at_a_position_only() {
        let resumed = |value: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert("last-event-id", HeaderValue::from_static(value));
            }
            resumed_at(&headers).map_err(|problem| problem.code())
        };
        assert_eq!(resumed(None), Ok(None));
        assert_eq!(resumed(Some("")), Ok(None));
        assert_eq!(resumed(Some("42")), Ok(Some(42)));
        assert_eq!(resumed(Some("-1")), Err(ErrorCode::BadRequest));
        assert_eq!(resumed(Some("abc")), Err(ErrorCode::BadRequest));
    }

    #[test]
    fn heartbeats_and_last_words_carry_the_place_and_no_event() {
        let mut told = 5;
        assert_eq!(heartbeat(&mut told, 5), ": heartbeat\n\n");
        assert_eq!(heartbeat(&mut told, 9), ": heartbeat\nid: 9\n\n");
        assert_eq!(heartbeat(&mut told, 9), ": heartbeat\n\n");
        assert_eq!(last_words(Closing::SlowConsumer, 7), "id: 7\n: closed slow_consumer after 7\n\n");
        assert_eq!(last_words(Closing::LogReplaced, 7), ": closed log_replaced\n\n");
    }
}
