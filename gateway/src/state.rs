//! The state that all handlers of the public and the admin listener share.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use commands::{Executor, ExternalEvents};
use fairness::{Limits, Permit, Permits};
use nats::Integrators;
use schemas::engine::TenantId;
use store::Store;
use tokio_util::sync::CancellationToken;

use crate::activity::ActivityLog;
use crate::auth::{PasswordError, Passwords, ServiceTokens, SigningKey, Tokens};
use crate::config::GatewayConfig;
use crate::http::{ErrorCode, Problem};
use crate::{graphql, streams};

/// Limits of WebSockets that have not authenticated yet. The limit by address leaves permits for other addresses.
const HANDSHAKE_LIMITS: Limits =
    Limits { permits: 256, permits_per_key: 64, reserved: 64, waiting: 64, waiting_total: 1_024 };

/// Maximum concurrent reads of historical state, and maximum waiting reads of one tenant.
const HISTORIC_READS_MAX: usize = 4;
const HISTORIC_READS_WAITING_MAX: usize = 64;
/// How long a read of historical state waits for a permit. Then it gets 503.
const HISTORIC_READ_WAIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Limits of event streams. One tenant may open most of them; a part is reserved for tenants that have none.
fn stream_limits(streams: usize) -> Limits {
    Limits {
        permits: streams,
        permits_per_key: streams - streams / 8,
        reserved: streams / 64,
        waiting: 1_024,
        waiting_total: 8_192,
    }
}

/// The gateway. Cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<GatewayState>);

/// What handlers reach through the gateway.
pub struct GatewayState {
    pub(crate) config: GatewayConfig,
    pub(crate) executor: Executor,
    pub(crate) store: Store,
    pub(crate) integrators: Option<Integrators>,
    pub(crate) tokens: Tokens,
    pub(crate) passwords: Passwords,
    pub(crate) service_tokens: ServiceTokens,
    pub(crate) external_events: ExternalEvents,
    pub(crate) schema: graphql::ApiSchema,
    pub(crate) activities: ActivityLog,
    pub(crate) streams: Permits<TenantId>,
    /// WebSockets that have not authenticated yet.
    pub(crate) handshakes: Permits<IpAddr>,
    /// Reads of historical state that are running.
    pub(crate) historic_reads: Permits<TenantId>,
    pub(crate) hub: streams::Hub,
    pub(crate) stopping: CancellationToken,
}

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The pool for password hashes does not start.
    #[error(transparent)]
    Passwords(#[from] PasswordError),
}

impl Deref for Gateway {
    type Target = GatewayState;

    fn deref(&self) -> &GatewayState {
        &self.0
    }
}

impl Gateway {
    /// Starts the pool for password hashes and builds the GraphQL schema. Streams end when `stopping` is cancelled.
    pub fn new(
        config: GatewayConfig,
        key: SigningKey,
        executor: Executor,
        stopping: CancellationToken,
    ) -> Result<Self, GatewayError> {
        let passwords = Passwords::start(&config.hashing)?;
        let tokens = Tokens::new(key, config.issuer.clone(), config.token_lifetime);
        let schema = graphql::schema(config.development);
        let streams = Permits::new(stream_limits(config.max_streams), Duration::ZERO);
        let handshakes = Permits::new(HANDSHAKE_LIMITS, Duration::ZERO);
        let historic_reads = Limits::half_per_key(HISTORIC_READS_MAX, HISTORIC_READS_WAITING_MAX);
        let historic_reads = Permits::new(historic_reads, HISTORIC_READ_WAIT_TIMEOUT);
        let store = executor.store().clone();
        let activities = ActivityLog::start(store.clone(), config.activity_retention);
        let service_tokens = ServiceTokens::new(executor.clone());
        let external_events = ExternalEvents::new(executor.clone());
        let integrators =
            config.credential_issuer.clone().map(|issuer| Integrators::new(store.clone(), issuer));
        let hub = streams::Hub::new(store.clone(), stopping.clone());
        let shared = GatewayState {
            config,
            executor,
            store,
            integrators,
            tokens,
            passwords,
            service_tokens,
            external_events,
            schema,
            activities,
            streams,
            handshakes,
            historic_reads,
            hub,
            stopping,
        };
        Ok(Self(Arc::new(shared)))
    }

    /// Issues and verifies access tokens. For code that needs a token without a login over HTTP.
    pub fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    /// Hashes passwords. For code that registers users without HTTP.
    pub fn passwords(&self) -> &Passwords {
        &self.0.passwords
    }

    /// Writes the remaining entries of the activity log. Called by a stopping process after the last response.
    pub async fn finish(&self) {
        self.0.activities.finish().await;
    }

    /// A permit for one more event stream of a tenant in this process.
    ///
    /// # Errors
    /// 503 when no permit becomes free in time.
    pub(crate) async fn stream_permit(&self, tenant: TenantId) -> Result<Permit<TenantId>, Problem> {
        let permit = self.0.streams.acquire(tenant).await;
        permit.map_err(|_full| Problem::new(ErrorCode::Unavailable).detail("too many streams are open"))
    }
}
