//! Limits of concurrent work, so that one tenant or one client address cannot use all of it: event streams, WebSockets
//! that have not authenticated yet, and reads of historical state. They are cheap to clone; the clones share the
//! permits.

use std::net::IpAddr;
use std::time::Duration;

use access::ErrorCode;
use fairness::{Limits, Permit, Permits};
use schemas::engine::TenantId;

use crate::http::problem::Problem;

/// Limits of WebSockets that have not authenticated yet. The limit by address leaves permits for other addresses.
const HANDSHAKE_LIMITS: Limits =
    Limits { permits: 256, permits_per_key: 64, reserved: 64, waiting: 64, waiting_total: 1_024 };

/// Maximum concurrent reads of historical state, and maximum waiting reads of one tenant.
const HISTORIC_READS_MAX: usize = 4;
const HISTORIC_READS_WAITING_MAX: usize = 64;
/// How long a read of historical state waits for a permit. Then it gets 503.
const HISTORIC_READ_WAIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The event streams of this process.
#[derive(Clone)]
pub struct StreamLimit(Permits<TenantId>);

impl StreamLimit {
    /// At most `max_streams`. One tenant may open most of them; a part is reserved for tenants that have none.
    pub fn new(max_streams: usize) -> Self {
        let limits = Limits {
            permits: max_streams,
            permits_per_key: max_streams - max_streams / 8,
            reserved: max_streams / 64,
            waiting: 1_024,
            waiting_total: 8_192,
        };
        Self(Permits::new(limits, Duration::ZERO))
    }

    /// A permit for one more event stream of a tenant.
    ///
    /// # Errors
    /// 503 when no permit becomes free in time.
    pub async fn acquire(&self, tenant: TenantId) -> Result<Permit<TenantId>, Problem> {
        let permit = self.0.acquire(tenant).await;
        permit.map_err(|_full| Problem::new(ErrorCode::Unavailable).detail("too many streams are open"))
    }
}

/// The WebSockets of this process that have not authenticated yet.
#[derive(Clone)]
pub struct HandshakeLimit(Permits<IpAddr>);

impl HandshakeLimit {
    /// A permit for one more WebSocket of a client address.
    ///
    /// # Errors
    /// 503 when no permit becomes free in time.
    pub async fn acquire(&self, address: IpAddr) -> Result<Permit<IpAddr>, Problem> {
        let permit = self.0.acquire(address).await;
        permit
            .map_err(|_full| Problem::new(ErrorCode::Unavailable).detail("too many sockets are being opened"))
    }
}

impl Default for HandshakeLimit {
    fn default() -> Self {
        Self(Permits::new(HANDSHAKE_LIMITS, Duration::ZERO))
    }
}

/// The running reads of historical state. The limit leaves the database to other requests.
#[derive(Clone)]
pub struct HistoricReadLimit(Permits<TenantId>);

impl HistoricReadLimit {
    /// A permit for one more read of a tenant.
    ///
    /// # Errors
    /// 503 when no permit becomes free in time.
    pub async fn acquire(&self, tenant: TenantId) -> Result<Permit<TenantId>, Problem> {
        let permit = self.0.acquire(tenant).await;
        permit.map_err(|_full| {
            Problem::new(ErrorCode::Unavailable).detail("too many pages of the past are being computed")
        })
    }
}

impl Default for HistoricReadLimit {
    fn default() -> Self {
        let limits = Limits::half_per_key(HISTORIC_READS_MAX, HISTORIC_READS_WAITING_MAX);
        Self(Permits::new(limits, HISTORIC_READ_WAIT_TIMEOUT))
    }
}
