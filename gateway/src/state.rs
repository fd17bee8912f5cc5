//! The state of the public and the admin listener. Handlers, extractors and layers reach single parts of it, as
//! `State<Part>`.

use std::sync::Arc;

use axum::extract::FromRef;
use commands::{Executor, ExternalEvents};
use nats::Integrators;
use store::Store;
use tokio_util::sync::CancellationToken;

use crate::activity::ActivityLog;
use crate::auth::{Authenticator, PasswordError, Passwords, ServiceTokens, SigningKey, Tokens};
use crate::config::{GatewayConfig, WebhookRules};
use crate::graphql::{self, ApiSchema};
use crate::http::origin::AllowedOrigins;
use crate::http::tenancy::Tenancy;
use crate::limits::{HandshakeLimit, HistoricReadLimit, StreamLimit};
use crate::streams::disconnect::AccessWatch;
use crate::streams::hub::Hub;
use crate::streams::session::Sessions;

/// The gateway. Cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<GatewayState>);

struct GatewayState {
    development: bool,
    store: Store,
    executor: Executor,
    external_events: ExternalEvents,
    integrators: Option<Integrators>,
    authenticator: Authenticator,
    tenancy: Tenancy,
    tokens: Tokens,
    passwords: Passwords,
    service_tokens: ServiceTokens,
    schema: ApiSchema,
    activities: ActivityLog,
    sessions: Sessions,
    access_watch: AccessWatch,
    handshakes: HandshakeLimit,
    historic_reads: HistoricReadLimit,
    origins: AllowedOrigins,
    webhooks: WebhookRules,
    stopping: CancellationToken,
}

/// Makes fields of the state available as `State<Part>`.
macro_rules! parts {
    ($($field:ident: $part:ty,)*) => {$(
        impl FromRef<Gateway> for $part {
            fn from_ref(gateway: &Gateway) -> Self {
                Clone::clone(&gateway.0.$field)
            }
        }
    )*};
}

parts! {
    store: Store,
    executor: Executor,
    external_events: ExternalEvents,
    integrators: Option<Integrators>,
    authenticator: Authenticator,
    tenancy: Tenancy,
    tokens: Tokens,
    passwords: Passwords,
    service_tokens: ServiceTokens,
    schema: ApiSchema,
    activities: ActivityLog,
    sessions: Sessions,
    access_watch: AccessWatch,
    handshakes: HandshakeLimit,
    historic_reads: HistoricReadLimit,
    origins: AllowedOrigins,
    webhooks: WebhookRules,
    stopping: CancellationToken,
}

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The pool for password hashes does not start.
    #[error(transparent)]
    Passwords(#[from] PasswordError),
}

impl Gateway {
    /// Starts the pool for password hashes and builds the GraphQL schema. Streams end when `stopping` is cancelled.
    ///
    /// # Errors
    /// [`GatewayError::Passwords`] when Argon2 does not accept the configured cost.
    pub fn new(
        config: GatewayConfig,
        key: SigningKey,
        executor: Executor,
        stopping: CancellationToken,
    ) -> Result<Self, GatewayError> {
        let store = executor.store().clone();
        let public_host = config.public_host.as_deref();
        let tenancy = Tenancy::new(store.clone(), public_host);
        let tokens = Tokens::new(key, config.issuer, config.token_lifetime);
        let service_tokens = ServiceTokens::new(executor.clone());
        let access_watch = AccessWatch::new(service_tokens.clone(), stopping.clone());
        let hub = Hub::new(store.clone(), stopping.clone());
        let limit = StreamLimit::new(config.max_streams);
        Ok(Self(Arc::new(GatewayState {
            development: config.development,
            external_events: ExternalEvents::new(executor.clone()),
            integrators: config.credential_issuer.map(|issuer| Integrators::new(store.clone(), issuer)),
            authenticator: Authenticator::new(
                store.clone(),
                tenancy.clone(),
                tokens.clone(),
                service_tokens.clone(),
            ),
            tenancy,
            tokens,
            passwords: Passwords::start(&config.hashing)?,
            service_tokens,
            schema: graphql::schema(executor.clone(), config.development, config.compiled_reads),
            activities: ActivityLog::start(store.clone(), config.activity_retention),
            sessions: Sessions::new(hub, limit, config.stream_times, access_watch.clone()),
            access_watch,
            handshakes: HandshakeLimit::default(),
            historic_reads: HistoricReadLimit::default(),
            origins: AllowedOrigins::new(public_host, &config.cors_allowed_origins),
            webhooks: config.webhooks,
            stopping,
            store,
            executor,
        })))
    }

    /// Whether the process runs in development mode.
    pub(crate) fn is_development(&self) -> bool {
        self.0.development
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
}
