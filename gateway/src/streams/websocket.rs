//! `GET /v1/events/ws`: a tenant's events over a WebSocket, one JSON message each. The access token is sent in the
//! header `Authorization` or in the first message, never in the URL.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, Extension, FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri, header};
use axum::response::Response;
use fairness::Permit;
use futures::SinkExt;
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::disconnect_reason::DisconnectReason;
use super::frame::Frame;
use super::session::{Session, SessionEvent, Sessions};
use crate::activity::ActivityLog;
use crate::activity::layer::record_request;
use crate::auth::{Authenticator, Caller, EventSubscriber};
use crate::http::origin::AllowedOrigins;
use crate::http::route::{AccessRule, Credential, Route};
use crate::http::{ErrorCode, Problem, RequestContext};
use crate::limits::HandshakeLimit;
use crate::rest::events::EventsQuery;
use crate::routes::Routes;
use crate::server::InFlightTracker;
use crate::server::limits::counted_address;
use crate::state::Gateway;

/// Time limit for the first message with the token. Then the socket is closed.
const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server waits for a client that is being closed to read pending messages.
const CLOSE_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum pings without a pong. One more closes the stream as too slow.
const UNANSWERED_PINGS_MAX: u32 = 2;
/// Maximum size of a client's message in bytes. The largest one holds a token.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Read buffer of one connection in bytes. It is small, because there are thousands of connections.
const READ_BUFFER_BYTES: usize = 1024;
const WRITE_BUFFER_BYTES: usize = 16 * 1024;

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    let access = AccessRule::Handler(Credential::Token);
    routes.add(Route::public(Method::GET, "/v1/events/ws").access(access), follow)
}

/// The parts of the gateway that a WebSocket uses.
struct SocketParts {
    origins: AllowedOrigins,
    handshakes: HandshakeLimit,
    authenticator: Authenticator,
    sessions: Sessions,
    activities: ActivityLog,
    stopping: CancellationToken,
}

impl FromRequestParts<Gateway> for SocketParts {
    type Rejection = Infallible;

    async fn from_request_parts(_request: &mut Parts, gateway: &Gateway) -> Result<Self, Infallible> {
        Ok(Self {
            origins: FromRef::from_ref(gateway),
            handshakes: FromRef::from_ref(gateway),
            authenticator: FromRef::from_ref(gateway),
            sessions: FromRef::from_ref(gateway),
            activities: FromRef::from_ref(gateway),
            stopping: FromRef::from_ref(gateway),
        })
    }
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum FirstMessage {
    Auth { token: String },
}

/// Why a socket is closed before it follows a log.
struct SocketRefusal {
    code: &'static str,
    websocket: u16,
    /// The code of the problem that an HTTP request would get.
    problem: Option<ErrorCode>,
}

impl SocketRefusal {
    fn new(code: &'static str, websocket: u16) -> Self {
        Self { code, websocket, problem: None }
    }
}

impl From<Problem> for SocketRefusal {
    fn from(problem: Problem) -> Self {
        let code = problem.code();
        // 4000 plus the HTTP status, as for the reasons of streams.
        Self { problem: Some(code), ..Self::new(code.as_str(), 4000 + code.status()) }
    }
}

/// Opens a WebSocket that follows the log after the position `after`.
async fn follow(
    parts: SocketParts,
    Extension(in_flight): Extension<InFlightTracker>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    request: RequestContext,
    headers: HeaderMap,
    uri: Uri,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let query = EventsQuery::for_stream(&uri)?;
    if query.ticket.is_some() {
        return Err(Problem::bad_request("a WebSocket takes its token in the first message"));
    }
    let upgrade = upgrade.map_err(|_| Problem::bad_request("this address takes WebSockets only"))?;
    if !parts.origins.allows(&headers) {
        return Err(Problem::new(ErrorCode::Forbidden).detail("pages of this origin may not connect"));
    }
    let opened = if headers.contains_key(header::AUTHORIZATION) {
        let caller = Caller::authenticate(&headers, None, &request, &parts.authenticator).await?;
        let session = open_session(caller, query.clone(), &parts.sessions).await?;
        Ok(session)
    } else {
        Err(parts.handshakes.acquire(counted_address(address.ip())).await?)
    };
    let upgrade = upgrade
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES);
    let path = uri.path().to_owned();
    Ok(upgrade.on_upgrade(move |socket| async move {
        let _in_flight = in_flight.token();
        let mut socket = socket;
        let session = match opened {
            Ok(session) => session,
            Err(permit) => match authenticate(&mut socket, permit, query, &headers, &request, &parts).await {
                Ok(Some(session)) => {
                    record_request(&parts.activities, &request, &path, None, Some(address.ip().to_string()));
                    session
                }
                Ok(None) => return,
                Err(refusal) => {
                    record_request(
                        &parts.activities,
                        &request,
                        &path,
                        refusal.problem,
                        Some(address.ip().to_string()),
                    );
                    let message = json!({"type": "closed", "code": refusal.code});
                    return close(&mut socket, &message.to_string(), refusal.code, refusal.websocket).await;
                }
            },
        };
        run(socket, session).await;
    }))
}

async fn open_session(caller: Caller, query: EventsQuery, sessions: &Sessions) -> Result<Session, Problem> {
    let subscriber = EventSubscriber::from(caller)?;
    sessions.open("websocket", &subscriber, (query.log, query.after), query.filter).await
}

/// Waits for the first message. `None` when the client has left.
async fn authenticate(
    socket: &mut WebSocket,
    _permit: Permit<IpAddr>,
    query: EventsQuery,
    headers: &HeaderMap,
    request: &RequestContext,
    parts: &SocketParts,
) -> Result<Option<Session>, SocketRefusal> {
    let message = tokio::select! {
        () = parts.stopping.cancelled() => {
            return Err(SocketRefusal::new(DisconnectReason::Stopping.as_str(), DisconnectReason::Stopping.websocket()));
        }
        message = tokio::time::timeout(AUTHENTICATION_TIMEOUT, receive_first(socket)) => message,
    };
    let Ok(message) = message else { return Err(SocketRefusal::new("auth_timeout", 4408)) };
    let Some(message) = message else { return Ok(None) };
    let Ok(FirstMessage::Auth { token }) = serde_json::from_str(&message) else {
        return Err(SocketRefusal::new(ErrorCode::BadRequest.as_str(), 4400));
    };
    let caller = Caller::authenticate(headers, Some(&token), request, &parts.authenticator).await?;
    Ok(Some(open_session(caller, query, &parts.sessions).await?))
}

async fn receive_first(socket: &mut WebSocket) -> Option<Utf8Bytes> {
    loop {
        match socket.recv().await? {
            Ok(Message::Text(text)) => return Some(text),
            Ok(Message::Binary(_)) => return Some(Utf8Bytes::default()),
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            Ok(Message::Close(_)) | Err(_) => return None,
        }
    }
}

/// Sends events until the client leaves or the stream is closed.
async fn run(mut socket: WebSocket, mut session: Session) {
    let slow_consumer_timeout = session.slow_consumer_timeout;
    let opened = json!({"type": "open", "after": session.at().to_string()}).to_string();
    if socket.send(Message::Text(opened.into())).await.is_err() {
        return;
    }
    let (mut unanswered, mut sent_to) = (0, session.at());
    let reason = loop {
        tokio::select! {
            step = session.next() => match step {
                SessionEvent::Frames(frames) => {
                    match tokio::time::timeout(slow_consumer_timeout, send(&mut socket, frames, session.personal_data, &mut sent_to)).await {
                        Ok(Ok(())) => sent_to = session.at(),
                        Ok(Err(_)) => return,
                        Err(_elapsed) => break DisconnectReason::SlowConsumer,
                    }
                }
                SessionEvent::Heartbeat => {
                    let ping = socket.send(Message::Ping(bytes::Bytes::new()));
                    match tokio::time::timeout(slow_consumer_timeout, ping).await {
                        _ if unanswered == UNANSWERED_PINGS_MAX => break DisconnectReason::SlowConsumer,
                        Ok(Ok(())) => unanswered += 1,
                        Ok(Err(_)) => return,
                        Err(_elapsed) => break DisconnectReason::SlowConsumer,
                    }
                }
                SessionEvent::Closed(reason) => {
                    sent_to = session.at();
                    break reason;
                }
            },
            message = socket.recv() => match message {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => unanswered = 0,
                Some(Ok(Message::Text(_) | Message::Binary(_))) => {
                    let message = json!({"type": "closed", "code": "bad_request", "after": sent_to.to_string()});
                    return close(&mut socket, &message.to_string(), "bad_request", 4400).await;
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
        }
    };
    session.count_closed(reason);
    let mut message = json!({"type": "closed", "code": reason.as_str()});
    if reason.resumes() {
        message["after"] = sent_to.to_string().into();
    }
    close(&mut socket, &message.to_string(), reason.as_str(), reason.websocket()).await;
}

/// Sends events and records the last position sent, so that the resume point is correct if this future is dropped.
async fn send(
    socket: &mut WebSocket,
    frames: Vec<Arc<Frame>>,
    personal_data: bool,
    sent_to: &mut u64,
) -> Result<(), axum::Error> {
    for frame in frames {
        socket.feed(Message::Text(frame.encoded(personal_data).message.clone())).await?;
        *sent_to = frame.position;
    }
    socket.flush().await
}

/// Sends the last message and the close frame, and waits for the client's close frame.
async fn close(socket: &mut WebSocket, message: &str, reason: &'static str, code: u16) {
    let close_handshake = async {
        let close = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        if socket.send(Message::Text(message.into())).await.is_ok()
            && socket.send(Message::Close(Some(close))).await.is_ok()
        {
            // The client's close frame ends the connection. Messages before it are ignored.
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    // A client that does not answer within this time is disconnected.
    drop(tokio::time::timeout(CLOSE_HANDSHAKE_TIMEOUT, close_handshake).await);
}
