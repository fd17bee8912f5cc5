//! One request of a connection: checks it against the rules of HTTP, adds extensions about its connection, and discards
//! the rest of a body that no handler read.

use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, Version, header};
use axum::response::Response;
use futures::StreamExt;
use http_body::Frame;
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::ServiceExt;

use super::client::TrustedProxies;
use super::phase::ConnectionPhase;
use super::refusal::RequestRefusal;
use super::refusal_log::RefusalLog;
use crate::http;
use crate::http::RequestContext;

/// Maximum bytes of an unread body that are discarded, so that the connection can be used again. Above it the
/// connection is closed.
const DISCARDED_BYTES_MAX: usize = 64 * 1024;
/// Maximum time for discarding an unread body.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(200);

/// Shared by all requests of a listener.
pub struct RequestService {
    pub refusal_log: Arc<RefusalLog>,
    pub router: Router,
    pub proxies: TrustedProxies,
    /// Whether every response has `Strict-Transport-Security`.
    pub always_https: bool,
    pub in_flight: TaskTracker,
}

/// Gives handlers a token for work that outlives the response, such as a WebSocket. A stopping process waits for it as
/// for running requests.
#[derive(Clone)]
pub struct InFlightTracker(TaskTracker);

impl InFlightTracker {
    /// A token. The work counts as running until it is dropped.
    pub fn token(&self) -> TaskTrackerToken {
        self.0.token()
    }
}

impl RequestService {
    /// Answers a request. The request counts as running until the response was written completely.
    pub async fn answer(
        &self,
        mut request: Request<Incoming>,
        peer: SocketAddr,
        phase: Arc<ConnectionPhase>,
    ) -> Result<Response, Infallible> {
        let answering = ResponseInProgress { _in_flight: self.in_flight.token(), phase };
        answering.phase.answering();
        let secure = self.always_https || self.proxies.is_https(peer.ip(), request.headers());
        let mut response = match check_host(&mut request) {
            Ok(()) => self.route(request, peer).await,
            Err(refusal) => {
                let context = RequestContext::from_headers(request.headers(), None);
                let client = self.proxies.client(peer.ip(), request.headers()).0;
                let (method, path) = (request.method(), request.uri().path());
                self.refusal_log.record_parsed(method, path, refusal, client, context.id());
                refusal.response(context.id())
            }
        };
        if secure {
            http::headers::set_hsts(response.headers_mut());
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            answering.phase.upgraded();
        }
        Ok(response.map(|body| Body::new(ResponseBody { body, _answering: answering })))
    }

    async fn route(&self, request: Request<Incoming>, peer: SocketAddr) -> Response {
        let unread = UnreadBodySlot::default();
        let client = self.proxies.client(peer.ip(), request.headers());
        let may_discard = !request.headers().contains_key(header::EXPECT);
        let mut request = request.map(|body| {
            if body.is_end_stream() {
                Body::empty()
            } else {
                Body::new(RequestBody { body: Some(body), unread: unread.clone() })
            }
        });
        let extensions = request.extensions_mut();
        extensions.insert(InFlightTracker(self.in_flight.clone()));
        extensions.insert(client);
        // Handlers that read `ConnectInfo` need the client, not the proxy in front of the gateway.
        extensions.insert(ConnectInfo(SocketAddr::new(client.0, peer.port())));
        let mut response = match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let keep_alive = match unread.take() {
            None => true,
            // The body was not read. Reading it now would make a client that expects `100 Continue` send data that is
            // not used.
            Some(UnreadBody::Dropped(body)) => may_discard && discard(body).await,
            Some(UnreadBody::Broken) => false,
        };
        if !keep_alive {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Checks the host of a request (RFC 9112, section 3.2): exactly one valid `Host`. The authority of an absolute target
/// replaces it.
fn check_host(request: &mut Request<Incoming>) -> Result<(), RequestRefusal> {
    let authority = request.uri().authority().filter(|_| request.uri().scheme().is_some()).cloned();
    let required = request.version() >= Version::HTTP_11;
    host_of(request.headers(), required)?;
    let Some(authority) = authority else { return Ok(()) };
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| RequestRefusal::HOST_INVALID)?;
    if !is_host(&host) {
        return Err(RequestRefusal::HOST_INVALID);
    }
    request.headers_mut().insert(header::HOST, host);
    let target = request.uri().path_and_query().cloned().unwrap_or_else(|| "/".parse().expect("a path"));
    *request.uri_mut() = Uri::from(target);
    Ok(())
}

fn host_of(headers: &HeaderMap, required: bool) -> Result<(), RequestRefusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if required => Err(RequestRefusal::HOST_MISSING),
        (None, _) => Ok(()),
        (Some(_), Some(_)) => Err(RequestRefusal::HOST_REPEATED),
        (Some(host), None) if is_host(host) => Ok(()),
        (Some(_), None) => Err(RequestRefusal::HOST_INVALID),
    }
}

/// Checks `uri-host [ ":" port ]` (RFC 9110, section 7.2): it has a host (section 4.2.1) and no user. Only characters
/// of DNS names are allowed: a comma would mean two hosts that a proxy joined.
fn is_host(value: &HeaderValue) -> bool {
    let Ok(authority) = Authority::try_from(value.as_bytes()) else { return false };
    let (host, text) = (authority.host(), authority.as_str());
    let is_name = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_literal = literal.is_some_and(|literal| literal.parse::<Ipv6Addr>().is_ok());
    // The text after the host. If the text began with a user, the prefix does not match.
    let port = text.strip_prefix(host).unwrap_or("invalid");
    let port_is_valid = port.is_empty() || port == ":" || authority.port_u16().is_some();
    (is_name || is_literal) && port_is_valid
}

/// Reads and discards the rest of a body. False when it exceeds the limits.
async fn discard(body: Incoming) -> bool {
    let reading = async {
        let mut frames = pin!(Body::new(body).into_data_stream());
        let mut left = DISCARDED_BYTES_MAX;
        while let Some(Ok(data)) = frames.next().await {
            let Some(rest) = left.checked_sub(data.len()) else { return false };
            left = rest;
        }
        true
    };
    tokio::time::timeout(DISCARD_TIMEOUT, reading).await.unwrap_or(false)
}

/// A body that was not read to its end.
enum UnreadBody {
    /// The handler dropped it.
    Dropped(Incoming),
    /// It cannot be read, for example because its chunks are malformed. So the start of the next request is unknown.
    Broken,
}

/// Receives a body that was not read to its end.
#[derive(Clone, Default)]
struct UnreadBodySlot(Arc<Mutex<Option<UnreadBody>>>);

impl UnreadBodySlot {
    fn put(&self, body: UnreadBody) {
        *self.slot() = Some(body);
    }

    fn take(&self) -> Option<UnreadBody> {
        self.slot().take()
    }

    fn slot(&self) -> MutexGuard<'_, Option<UnreadBody>> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The request body that handlers get.
struct RequestBody {
    body: Option<Incoming>,
    unread: UnreadBodySlot,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        if matches!(frame, Some(Err(_))) {
            self.unread.put(UnreadBody::Broken);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.as_ref().map_or_else(|| http_body::SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            self.unread.put(UnreadBody::Dropped(body));
        }
    }
}

/// Marks the response as finished when it is dropped.
struct ResponseInProgress {
    _in_flight: TaskTrackerToken,
    phase: Arc<ConnectionPhase>,
}

impl Drop for ResponseInProgress {
    fn drop(&mut self) {
        self.phase.answered();
    }
}

/// The body of a response.
struct ResponseBody {
    body: Body,
    _answering: ResponseInProgress,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(values: &[&str], required: bool) -> Result<(), RequestRefusal> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::HOST, HeaderValue::from_bytes(value.as_bytes()).expect("a header value"));
        }
        host_of(&headers, required)
    }

    #[test]
    fn a_request_names_one_host() {
        assert_eq!(hosts(&[], true), Err(RequestRefusal::HOST_MISSING));
        assert_eq!(hosts(&[], false), Ok(()), "HTTP/1.0 needs none");
        for required in [true, false] {
            assert_eq!(hosts(&["a.example", "a.example"], required), Err(RequestRefusal::HOST_REPEATED));
        }
        for valid in
            ["a.example", "a.example:80", "10.0.0.7:8080", "[::1]", "[::1]:8080", "acme.localhost", "a:"]
        {
            assert_eq!(hosts(&[valid], true), Ok(()), "{valid}");
        }
        for invalid in [
            "",
            "a b",
            "a.example/path",
            "user@a.example",
            "a:b",
            "a:99999",
            ":80",
            "a,b.example",
            "a?b",
            "ä.example",
            "[::1",
            "[nonsense]",
            "a%2Fb.example",
            "a;b.example",
        ] {
            assert_eq!(hosts(&[invalid], true), Err(RequestRefusal::HOST_INVALID), "{invalid}");
        }
    }
}
