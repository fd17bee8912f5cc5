//! What the gateway needs to know; the binary reads it from the configuration.

use std::time::Duration;

use nats::Issuer;

use crate::auth::HashingConfig;

/// How long entries are kept.
#[derive(Debug, Clone, Copy)]
pub struct ActivityRetention {
    /// For so long.
    pub max_age: Duration,
    /// So many of each tenant and kind.
    pub max_per_kind: u64,
}

/// Settings of the gateway.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The host under which the public listener is known; `<tenant>.<public_host>` names a tenant. None: no subdomains.
    pub public_host: Option<String>,
    /// The issuer that access tokens name.
    pub issuer: String,
    /// How long an access token is good for.
    pub token_lifetime: Duration,
    /// The cost of password hashes and the size of the pool that makes them.
    pub hashing: HashingConfig,
    /// Followers of event streams that this process serves at a time.
    pub max_streams: usize,
    /// How often an idle event stream shows that it is alive, so that both ends notice when the other has gone.
    pub heartbeat_interval: Duration,
    /// How long the activity log is kept.
    pub activity_retention: ActivityRetention,
    /// Who issues credentials for integrators. None: nobody does.
    pub credential_issuer: Option<Issuer>,
    /// How long a client may take for what waits for it until its stream is closed.
    pub slow_consumer_timeout: Duration,
    /// Origins (`https://app.example.com`) besides the gateway's own whose pages may use it, with credentials.
    pub cors_allowed_origins: Vec<String>,
    /// Webhooks may be plain HTTP and may lead to addresses that are not public.
    pub allow_private_webhooks: bool,
    /// Dead letters with which a webhook stays disabled.
    pub max_dead_letters_per_endpoint: u64,
    /// A development profile: GraphiQL is served and GraphQL suggests names.
    pub development: bool,
}

impl Default for GatewayConfig {
    /// The settings of `config.default.toml`.
    fn default() -> Self {
        Self {
            public_host: Some("localhost".to_owned()),
            issuer: "annals".to_owned(),
            token_lifetime: Duration::from_mins(15),
            hashing: HashingConfig {
                memory_kib: 19 * 1024,
                iterations: 2,
                threads: 1,
                max_queued_per_tenant: 256,
                max_wait: Duration::from_secs(3),
            },
            max_streams: 6_000,
            heartbeat_interval: Duration::from_secs(15),
            activity_retention: ActivityRetention {
                max_age: Duration::from_hours(90 * 24),
                max_per_kind: 100_000,
            },
            credential_issuer: None,
            slow_consumer_timeout: Duration::from_secs(30),
            cors_allowed_origins: ["http://localhost:3000", "http://localhost:5173"]
                .map(str::to_owned)
                .into(),
            allow_private_webhooks: false,
            max_dead_letters_per_endpoint: 10_000,
            development: false,
        }
    }
}
