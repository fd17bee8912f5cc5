//! Serves the three listeners: limits connections, applies timeouts, and waits for running requests before it stops.
//!
//! Layout: `listener` accepts connections, `limits` counts them, `connection` serves one, `phase` holds its state,
//! `socket` wraps its bytes, `request` handles each request around the router, `refusal` answers invalid HTTP,
//! `refusal_log` counts and logs refusals, `rate_limited_log` limits log lines, and `client` finds the client's
//! address.

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

/// How long running requests may take after the stop signal. Then they are aborted.
const SHUTDOWN_DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// Time to write the last response to its socket.
const FINAL_FLUSH_DELAY: Duration = Duration::from_millis(100);

/// The settings of a listener.
#[derive(Debug, Clone)]
pub struct ListenerSettings {
    /// The listener's name in metrics and logs.
    pub name: &'static str,
    /// Maximum open connections. A further one gets 503.
    pub max_connections: usize,
    /// Maximum open connections of one client address (IPv6: of one /64 network). Trusted proxies are exempt.
    pub max_connections_per_address: usize,
    /// Time limit for the header fields, from the opening of a connection or the first byte of a request.
    pub header_timeout: Duration,
    /// Time limit between a response and the first byte of the next request.
    pub keep_alive_timeout: Duration,
    /// Proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are trusted.
    pub trusted_proxies: TrustedProxies,
    /// Whether clients always use HTTPS, even if no proxy reports it: every response has `Strict-Transport-Security`.
    pub always_https: bool,
    /// File descriptors held in reserve for this listener, for when the process has none left.
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

/// Serves until `stopping` is cancelled. Then it accepts no more connections and waits up to three seconds for running
/// requests. Errors of a connection do not end it.
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
    // Connections without a running request are not awaited.
    tokio::select! {
        () = answered => {}
        () = connections.wait() => {}
    }
}
