//! What all handlers share, and the routers of the three listeners.

use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{delete, get, post, put};
use commands::{Executor, ExternalEvents};
use metrics_exporter_prometheus::PrometheusHandle;
use nats::Integrators;
use store::Store;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::activity::{self, ActivityLog};
use crate::auth::{PasswordError, Passwords, ServiceTokens, SigningKey, Tokens};
use crate::config::GatewayConfig;
use crate::edge::cors::{self, Cors};
use crate::edge::observe::observe;
use crate::edge::rescue::rescue;
use crate::edge::{Code, Problem};
use crate::operations::{MetricsError, ReadinessCheck};
use crate::{admin, graphql, operations, rest, streams};

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
        place.map_err(|_full| Problem::new(Code::Unavailable).detail("too many streams are open"))
    }

    /// The routes of the public listener.
    pub fn public_router(&self) -> Router {
        let router = Router::new()
            .route("/v1/tenants", post(rest::tenants::create))
            .route("/v1/auth/register", post(rest::auth::register))
            .route("/v1/auth/login", post(rest::auth::login))
            .route("/v1/auth/me", get(rest::auth::me))
            .route("/v1/users", get(rest::users::list).post(rest::users::add))
            .route("/v1/users/{id}", get(rest::users::show).patch(rest::users::change))
            .route("/v1/users/{id}/roles", put(rest::users::put_roles))
            .route("/v1/events", get(rest::events::page))
            .route("/v1/events/stream", get(streams::sse::follow))
            .route("/v1/activities", get(rest::activities::page))
            .route("/v1/audit/key", get(rest::audit::key))
            .route("/v1/audit/checkpoint", get(rest::audit::checkpoint))
            .route("/v1/audit/proofs/{position}", get(rest::audit::proof))
            .route("/v1/audit/consistency", get(rest::audit::consistency))
            .route("/v1/audit/export", get(rest::audit::export))
            .route("/v1/audit/position", get(rest::read_models::position))
            .route("/v1/audit/read-models/{name}", get(rest::read_models::rows))
            .route("/v1/audit/read-models/{name}/changes", get(rest::read_models::changes))
            .route("/v1/event-types", get(rest::event_types::list))
            .route("/v1/event-types/{type}", get(rest::event_types::show).put(rest::event_types::put))
            .route(
                "/v1/streams/{category}/{id}/events",
                get(rest::external_streams::page).post(rest::external_streams::append),
            )
            .route("/v1/erasures", get(rest::erasures::list).post(rest::erasures::request))
            .route("/v1/erasures/{subject}", get(rest::erasures::show))
            .route("/v1/service-tokens", get(rest::service_tokens::list).post(rest::service_tokens::issue))
            .route("/v1/service-tokens/{id}", delete(rest::service_tokens::revoke))
            .route("/asyncapi.json", get(rest::contracts::asyncapi))
            .route(
                "/v1/integrations/credentials",
                get(rest::credentials::list).post(rest::credentials::create),
            )
            .route(
                "/v1/integrations/credentials/{name}",
                get(rest::credentials::show).delete(rest::credentials::revoke),
            )
            .route("/v1/integrations/credentials/{name}/reset", post(rest::credentials::reset))
            .route("/v1/integrations/credentials/{name}/rotate", post(rest::credentials::rotate))
            .route("/v1/events/ws", get(streams::websocket::follow))
            .route("/v1/stream-tickets", post(rest::stream_tickets::issue))
            .merge(rest::webhooks::routes())
            .route("/.well-known/jwks.json", get(rest::jwks::keys))
            .route(
                "/graphql",
                if self.config.dev { get(graphql::page::show) } else { get(graphql::page::hidden) },
            )
            .route("/graphql", post(graphql::handler::answer));
        let router = if self.config.dev {
            router.route("/graphql/assets/{name}", get(graphql::page::asset))
        } else {
            router
        };
        let cors = from_fn_with_state(Cors::new(&self.config), cors::share);
        answering(router, self).layer(cors).layer(from_fn(observe)).with_state(self.clone())
    }

    /// The routes of the operations listener: probes and metrics, nothing else.
    pub fn operations_router(&self) -> Router {
        let router = Router::new()
            .route("/livez", get(operations::livez))
            .route("/readyz", get(operations::readyz))
            .route("/metrics", get(operations::metrics));
        answering(router, self).layer(from_fn(observe)).with_state(self.clone())
    }

    /// The routes of the admin listener.
    pub fn admin_router(&self) -> Router {
        let router = Router::new()
            .route("/", get(admin::status_page))
            .route("/admin", get(admin::nothing_yet).fallback(admin::nothing_yet))
            .route("/admin/{*path}", get(admin::nothing_yet).fallback(admin::nothing_yet))
            .layer(from_fn(admin::only_local_hosts));
        answering(router, self).layer(from_fn(observe)).with_state(self.clone())
    }
}

/// What every router ends with inside the layers that add headers: answers for what it does not know and for what goes wrong.
fn answering(router: Router<Gateway>, gateway: &Gateway) -> Router<Gateway> {
    router
        .method_not_allowed_fallback(|| async { Problem::new(Code::MethodNotAllowed) })
        .fallback(|| async { Problem::new(Code::NotFound) })
        .layer(from_fn_with_state(gateway.clone(), activity::watch))
        .layer(from_fn(rescue))
}
