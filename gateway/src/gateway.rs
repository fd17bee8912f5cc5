//! What all handlers share.

use std::ops::Deref;
use std::sync::Arc;

use commands::{Executor, ExternalEvents};
use metrics_exporter_prometheus::PrometheusHandle;
use nats::Integrators;
use store::Store;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::activity::ActivityLog;
use crate::auth::{PasswordError, Passwords, ServiceTokens, SigningKey, Tokens};
use crate::config::GatewayConfig;
use crate::http::{ErrorCode, Problem};
use crate::operations::{MetricsError, ReadinessCheck};
use crate::{graphql, operations, streams};

/// Sockets at a time that may keep the gateway waiting for their first message.
const GREETINGS: usize = 256;

/// Pages of the past that are worked out at a time.
const PASTS: usize = 4;

/// The gateway. Cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<Shared>);

/// What handlers reach through the gateway.
pub struct Shared {
    pub(crate) config: GatewayConfig,
    pub(crate) executor: Executor,
    pub(crate) store: Store,
    pub(crate) integrators: Option<Integrators>,
    pub(crate) tokens: Tokens,
    pub(crate) passwords: Passwords,
    pub(crate) service_tokens: ServiceTokens,
    pub(crate) external: ExternalEvents,
    pub(crate) schema: graphql::ApiSchema,
    pub(crate) checks: Vec<ReadinessCheck>,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) activities: ActivityLog,
    pub(crate) streams: Arc<Semaphore>,
    /// Sockets that have not said yet who they are.
    pub(crate) greetings: Arc<Semaphore>,
    /// Pages of the past that are being worked out.
    pub(crate) pasts: Semaphore,
    pub(crate) hub: streams::Hub,
    pub(crate) stopping: CancellationToken,
}

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The hashing pool does not start.
    #[error(transparent)]
    Passwords(#[from] PasswordError),
    /// There is no recorder for metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

impl Deref for Gateway {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Gateway {
    /// Starts the hashing pool and builds the GraphQL schema. Readiness is that of the store and of `checks`. When
    /// `stopping` is cancelled the gateway is not ready any more and its streams end.
    pub fn new(
        config: GatewayConfig,
        key: SigningKey,
        executor: Executor,
        checks: Vec<ReadinessCheck>,
        stopping: CancellationToken,
    ) -> Result<Self, GatewayError> {
        let passwords = Passwords::start(&config.hashing)?;
        let tokens = Tokens::new(key, config.issuer.clone(), config.token_lifetime);
        let schema = graphql::schema(config.dev);
        let (streams, greetings) =
            (Arc::new(Semaphore::new(config.streams)), Arc::new(Semaphore::new(GREETINGS)));
        let metrics = operations::recorder()?;
        let store = executor.store().clone();
        let activities = ActivityLog::start(store.clone(), config.activities);
        let service_tokens = ServiceTokens::new(executor.clone());
        let external = ExternalEvents::new(executor.clone());
        let integrators = config.integrators.clone().map(|issuer| Integrators::new(store.clone(), issuer));
        let hub = streams::Hub::new(store.clone(), stopping.clone());
        let shared = Shared {
            config,
            executor,
            store,
            integrators,
            tokens,
            passwords,
            service_tokens,
            external,
            schema,
            checks,
            metrics,
            activities,
            streams,
            greetings,
            pasts: Semaphore::new(PASTS),
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

    /// A place among the event streams of this process.
    pub(crate) fn stream_place(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let place = Arc::clone(&self.0.streams).try_acquire_owned();
        place.map_err(|_full| Problem::new(ErrorCode::Unavailable).detail("too many streams are open"))
    }
}
