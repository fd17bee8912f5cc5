//! Serves the three listeners: one loop with limits of connections, timeouts, and an end that waits for answers.
//!
//! `listener` takes connections in, `limits` counts them, `connection` serves one, `phase` says what it is doing, `socket`
//! wraps its bytes, `request` is what happens to each request around the router, `refusal` answers what is no HTTP,
//! `refusal_log` counts and logs these, `rate_limited_log` bounds such lines, and `client` finds the client behind proxies.

pub mod client;
mod connection;
pub(crate) mod limits;
mod listener;
mod phase;
mod rate_limited_log;
mod refusal;
mod refusal_log;
mod request;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::client::{ClientAddress, InvalidNetwork, TrustedProxies};
use self::connection::serve_connection;
use self::limits::ConnectionLimits;
use self::listener::{Acceptor, DescriptorReserve};
use self::phase::Timeouts;
use self::refusal_log::RefusalLog;
pub use self::request::InFlightTracker;
use self::request::RequestService;

/// How long requests that are being answered may take after the call to stop.
const SHUTDOWN_DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// What is left to do when the last answer is complete: write it to its socket.
const FINAL_FLUSH_DELAY: Duration = Duration::from_millis(100);

/// What bounds a listener.
#[derive(Debug, Clone)]
pub struct ListenerSettings {
    /// The listener in metrics and logs.
    pub name: &'static str,
    /// Connections in all; one more is refused.
    pub max_connections: usize,
    /// Connections of one client address (IPv6: of one /64 network). Trusted proxies are exempt.
    pub max_connections_per_address: usize,
    /// From the opening of a connection, or the first byte of a request, to the end of the request's header fields.
    pub header_timeout: Duration,
    /// From an answer to the first byte of the next request.
    pub keep_alive_timeout: Duration,
    /// Whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    pub trusted_proxies: TrustedProxies,
    /// Clients reach the listener by HTTPS, whether or not a proxy says so: every answer has `Strict-Transport-Security`.
    pub always_https: bool,
    /// File descriptors that are kept back for this listener, for when the process has none left.
    pub reserved_descriptors: usize,
}

impl Default for ListenerSettings {
    /// The settings of `config.default.toml` for the public listener.
    fn default() -> Self {
        Self {
            name: "public",
            max_connections: 10_000,
            max_connections_per_address: 1_000,
            header_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            trusted_proxies: TrustedProxies::default(),
            always_https: false,
            reserved_descriptors: 0,
        }
    }
}

/// Serves until `stopping` is cancelled; then takes no more connections, and returns when the requests under way are
/// answered, after three seconds at the latest. No failure of a connection ends it.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    settings: ListenerSettings,
    stopping: CancellationToken,
) {
    let (in_flight, connections) = (TaskTracker::new(), TaskTracker::new());
    let timeouts =
        Timeouts { header: settings.header_timeout, keep_alive_timeout: settings.keep_alive_timeout };
    let proxies = settings.trusted_proxies;
    let refusal_log = RefusalLog::new(settings.name);
    let acceptor = Acceptor {
        name: settings.name,
        listener,
        limits: ConnectionLimits::new(
            settings.name,
            settings.max_connections,
            settings.max_connections_per_address,
            proxies.clone(),
        ),
        reserve: DescriptorReserve::new(settings.reserved_descriptors),
        refusal_log: Arc::clone(&refusal_log),
    };
    let requests = Arc::new(RequestService {
        refusal_log,
        router,
        proxies,
        always_https: settings.always_https,
        in_flight: in_flight.clone(),
    });
    let mut warnings = listener::warnings();
    while let Some(accepted) = acceptor.next(&mut warnings, &stopping).await {
        let (requests, stopping) = (Arc::clone(&requests), stopping.clone());
        let reserve = Arc::clone(&acceptor.reserve);
        connections.spawn(async move {
            let _permit = accepted.permit;
            serve_connection(accepted.stream, accepted.peer, timeouts, requests, stopping).await;
            reserve.refill();
        });
    }
    drop(acceptor);
    in_flight.close();
    connections.close();
    let answered = async {
        if tokio::time::timeout(SHUTDOWN_DRAIN_TIMEOUT, in_flight.wait()).await.is_err() {
            tracing::warn!("requests were still under way when the listener closed");
        } else {
            tokio::time::sleep(FINAL_FLUSH_DELAY).await;
        }
    };
    // Connections without a request under way, such as one that waits for its client to close, are not waited for.
    tokio::select! {
        () = answered => {}
        () = connections.wait() => {}
    }
}
