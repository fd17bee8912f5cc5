//! What all handlers of the public and the admin listener share.

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

/// Sockets that may keep the gateway waiting for their first message, by address: an address that opens many leaves places
/// to the others.
const HANDSHAKE_LIMITS: Limits =
    Limits { permits: 256, permits_per_key: 64, reserved: 64, waiting: 64, waiting_total: 1_024 };

/// Pages of the past that are computed at a time, and those of one tenant that wait for it.
const HISTORIC_READS_MAX: usize = 4;
const HISTORIC_READS_WAITING_MAX: usize = 64;
/// How long a page of the past waits for a permit.
const HISTORIC_READ_WAIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Event streams by tenant: one tenant may open most of them, and the rest is for tenants that have none.
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
    /// Sockets that have not said yet who they are.
    pub(crate) handshakes: Permits<IpAddr>,
    /// Pages of the past that are being computed.
    pub(crate) historic_reads: Permits<TenantId>,
    pub(crate) hub: streams::Hub,
    pub(crate) stopping: CancellationToken,
}

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The hashing pool does not start.
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
    /// Starts the hashing pool and builds the GraphQL schema. When `stopping` is cancelled its streams end.
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

    /// Issues and verifies access tokens, for whoever needs one without signing in over HTTP.
    pub fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    /// Hashes passwords, for whoever registers users without HTTP.
    pub fn passwords(&self) -> &Passwords {
        &self.0.passwords
    }

    /// Writes what the activity log holds. For the end of the process, behind the last answer.
    pub async fn finish(&self) {
        self.0.activities.finish().await;
    }

    /// A permit for one more event stream of a tenant in this process.
    pub(crate) async fn stream_permit(&self, tenant: TenantId) -> Result<Permit<TenantId>, Problem> {
        let permit = self.0.streams.acquire(tenant).await;
        permit.map_err(|_full| Problem::new(ErrorCode::Unavailable).detail("too many streams are open"))
    }
}
