//! `GET /v1/events/stream`: a tenant's events as server-sent events. The id of each is its position. A client that
//! reconnects with `Last-Event-ID` resumes there.

use std::convert::Infallible;

use async_stream::stream;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use commands::Executor;
use schemas::engine::InvalidValue;
use tokio::time::Instant;

use super::disconnect_reason::DisconnectReason;
use super::session::{Session, SessionEvent, Sessions};
use crate::auth::{Authenticator, Caller, EventSubscriber};
use crate::http::route::{AccessRule, Credential, Route};
use crate::http::tenancy::Tenancy;
use crate::http::{ErrorCode, FieldError, Problem, RequestContext};
use crate::rest::events::EventsQuery;
use crate::routes::Routes;

/// The path.
pub const PATH: &str = "/v1/events/stream";

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    let access = AccessRule::Handler(Credential::TokenOrTicket);
    routes.add(Route::public(Method::GET, PATH).access(access), follow)
}

/// Follows the log after `after` or `Last-Event-ID`, until the client leaves, its token expires or the process stops.
/// The server writes other reasons as a comment after an id to resume from.
async fn follow(
    State(authenticator): State<Authenticator>,
    State(tenancy): State<Tenancy>,
    State(executor): State<Executor>,
    State(sessions): State<Sessions>,
    request: RequestContext,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let query = EventsQuery::for_stream(&uri)?;
    let subscriber = match &query.ticket {
        Some(ticket) => {
            EventSubscriber::with_ticket(ticket, uri.path(), &headers, &request, &tenancy, &executor).await?
        }
        None => EventSubscriber::from(Caller::authenticate(&headers, None, &request, &authenticator).await?)?,
    };
    let resumed = last_event_id(&headers)?;
    let after = resumed.unwrap_or(query.after);
    let session = sessions.open("sse", &subscriber, (query.log, after), query.filter).await?;
    if resumed.is_some_and(|resumed| resumed > session.end()) {
        // `Last-Event-ID` was sent by this server, so a position beyond the head belongs to another log.
        let detail = format!("Last-Event-ID is beyond the end of the log, which is now {}", session.log_id());
        return Err(Problem::new(ErrorCode::LogReplaced).detail(detail));
    }
    let mut response = Body::from_stream(events(session)).into_response();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // Asks proxies not to buffer the stream.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// The body. It produces the next piece when the client has room, so at most one piece is buffered for a slow client.
fn events(mut session: Session) -> impl futures::Stream<Item = Result<Bytes, Infallible>> + Send {
    let slow_consumer_timeout = session.slow_consumer_timeout;
    stream! {
        // The comment shows the client and proxies at once that the stream is open.
        yield Ok(Bytes::from_static(b": open\n\n"));
        let mut last_sent = session.at();
        loop {
            let reason = match session.next().await {
                SessionEvent::Frames(frames) => {
                    let started = Instant::now();
                    for frame in frames {
                        last_sent = frame.position;
                        yield Ok(frame.encoded(session.personal_data).sse.clone());
                        if started.elapsed() > slow_consumer_timeout {
                            break;
                        }
                    }
                    if started.elapsed() <= slow_consumer_timeout {
                        continue;
                    }
                    DisconnectReason::SlowConsumer
                }
                SessionEvent::Heartbeat => {
                    yield Ok(heartbeat(&mut last_sent, session.at()));
                    continue;
                }
                SessionEvent::Closed(reason) => reason,
            };
            session.count_closed(reason);
            let at = if reason == DisconnectReason::SlowConsumer { last_sent } else { session.at() };
            yield Ok(closing_comment(reason, at));
            return;
        }
    }
}

/// A comment. After filtered events it comes with an id, so that a client that reconnects does not have them scanned
/// again. An id without data is not an event.
fn heartbeat(last_sent: &mut u64, at: u64) -> Bytes {
    if *last_sent == at {
        return Bytes::from_static(b": heartbeat\n\n");
    }
    *last_sent = at;
    format!(": heartbeat\nid: {at}\n\n").into()
}

fn closing_comment(reason: DisconnectReason, at: u64) -> Bytes {
    if reason.resumes() {
        return format!("id: {at}\n: closed {} after {at}\n\n", reason.as_str()).into();
    }
    format!(": closed {}\n\n", reason.as_str()).into()
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    // A client that has received no id sends an empty one (WHATWG HTML, section 9.2.3).
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
            last_event_id(&headers).map_err(|problem| problem.code())
        };
        assert_eq!(resumed(None), Ok(None));
        assert_eq!(resumed(Some("")), Ok(None));
        assert_eq!(resumed(Some("42")), Ok(Some(42)));
        assert_eq!(resumed(Some("-1")), Err(ErrorCode::BadRequest));
        assert_eq!(resumed(Some("abc")), Err(ErrorCode::BadRequest));
    }

    #[test]
    fn heartbeats_and_last_words_carry_the_place_and_no_event() {
        let mut last_sent = 5;
        assert_eq!(heartbeat(&mut last_sent, 5), ": heartbeat\n\n");
        assert_eq!(heartbeat(&mut last_sent, 9), ": heartbeat\nid: 9\n\n");
        assert_eq!(heartbeat(&mut last_sent, 9), ": heartbeat\n\n");
        assert_eq!(
            closing_comment(DisconnectReason::SlowConsumer, 7),
            "id: 7\n: closed slow_consumer after 7\n\n"
        );
        assert_eq!(closing_comment(DisconnectReason::LogReplaced, 7), ": closed log_replaced\n\n");
    }
}
