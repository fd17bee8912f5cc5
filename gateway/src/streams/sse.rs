//! `GET /v1/events/stream`: a tenant's events as server-sent events. The id of each is its position, so that a client
//! that comes back with `Last-Event-ID` goes on where it stopped.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, TryStreamExt, stream};
use schemas::engine::{InvalidValue, RecordedEvent, TenantSlug, clock};

use crate::auth::Principal;
use crate::edge::failures::Cause;
use crate::edge::{Code, Problem};
use crate::gateway::Gateway;
use crate::rest::events::{EVENTS_SCOPE, EventsQuery, same_log};

/// Follows the log: what is behind `after` (or `Last-Event-ID`), then whatever comes, until the client leaves, its token
/// expires, or the process stops. A slow client slows only its own reading of the log; nothing is buffered for it.
pub async fn follow(
    State(gateway): State<Gateway>,
    principal: Principal,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    principal.needs(EVENTS_SCOPE)?;
    let query = EventsQuery::of_stream(&uri)?;
    let resumed = resumed_at(&headers)?;
    let after = resumed.unwrap_or(query.after);
    let head = principal.store.head().await?;
    same_log(&principal.store, query.log, head.log_id).await?;
    if resumed.is_some_and(|resumed| resumed > head.position) {
        // It was sent once, so it is a position of another log.
        let detail =
            format!("Last-Event-ID is beyond the end of the tenant's log, which is now {}", head.log_id);
        return Err(Problem::new(Code::LogReplaced).detail(detail));
    }
    let Ok(place) = Arc::clone(&gateway.streams).try_acquire_owned() else {
        return Err(Problem::new(Code::Unavailable).detail("too many streams are open"));
    };

    let left = (principal.expires_at() - clock::now()).to_std().unwrap_or_default();
    let stopping = gateway.stopping.clone();
    let (claims, of) = (Arc::clone(&principal.claims), gateway.clone());
    let over = async move {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = tokio::time::sleep(left) => {}
            () = of.service_tokens.revoked(&claims) => {}
        }
    };
    let slug = principal.record.slug.clone();
    let events = principal.store.tail(Some(head.log_id), after, query.filter).map(move |event| {
        // The place is taken for as long as the stream lives.
        let _held = &place;
        as_sse(&event?, &slug)
    });
    // A comment at once tells the client, and whatever stands between, that the stream is open.
    let opened = stream::once(async { Ok::<_, Infallible>(Event::default().comment("open")) });
    let body = opened
        .map_err(|never| match never {})
        .chain(events.inspect_err(|error: &Problem| {
            if let Some(cause) = error.logged_cause() {
                tracing::warn!(cause = %Cause::of(cause), "an event stream broke off");
            }
        }))
        // An error breaks the connection off; the client comes back and goes on behind the last id it saw.
        .map_err(|problem| std::io::Error::other(problem.message().to_owned()))
        .take_until(over);
    let heartbeat = KeepAlive::new().interval(gateway.config.heartbeat).text("heartbeat");
    let mut response = Sse::new(body).keep_alive(heartbeat).into_response();
    // Asks proxies in front not to collect the stream into larger pieces.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn as_sse(event: &RecordedEvent, slug: &TenantSlug) -> Result<Event, Problem> {
    let cloud_event = event.to_cloud_event(slug).map_err(Problem::internal)?;
    let data = serde_json::to_string(&cloud_event).map_err(Problem::internal)?;
    Ok(Event::default().id(event.position.to_string()).data(data))
}

fn resumed_at(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(given) = headers.get("last-event-id") else { return Ok(None) };
    let position = given.to_str().ok().and_then(crate::rest::events::position);
    position.map(Some).ok_or_else(|| {
        let problem = InvalidValue::new("position_invalid", "must be the id of an event of this stream");
        Problem::bad_request("Last-Event-ID is not a position")
            .errors(vec![crate::edge::FieldError::new("Last-Event-ID", problem)])
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
        assert_eq!(resumed(Some("42")), Ok(Some(42)));
        assert_eq!(resumed(Some("-1")), Err(Code::BadRequest));
        assert_eq!(resumed(Some("abc")), Err(Code::BadRequest));
    }
}
