//! Settings of the gateway. The binary reads them from the configuration.

use std::time::Duration;

use nats::Issuer;

use crate::auth::passwords::HashingConfig;

/// How long entries are kept.
#[derive(Debug, Clone, Copy)]
pub struct ActivityRetention {
    /// For so long.
    pub max_age: Duration,
    /// So many of each tenant and kind.
    pub max_per_kind: u64,
}

/// Rules for the endpoints of webhooks.
#[derive(Debug, Clone, Copy)]
pub struct WebhookRules {
    /// Whether webhooks may use plain HTTP and private addresses.
    pub allow_private_addresses: bool,
    /// Maximum dead letters of a webhook. At the maximum the webhook is disabled.
    pub max_dead_letters_per_endpoint: u64,
}

/// Times of event streams.
#[derive(Debug, Clone, Copy)]
pub struct StreamTimes {
    /// How often an idle event stream sends a heartbeat, so that both ends notice a broken connection.
    pub heartbeat_interval: Duration,
    /// How long a client may read nothing of the pending events. Then its stream is closed.
    pub slow_consumer_timeout: Duration,
}

/// Settings of the gateway.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The host name of the public listener; `<tenant>.<public_host>` names a tenant. None: no subdomains.
    pub public_host: Option<String>,
    /// The claim `iss` of access tokens.
    pub issuer: String,
    /// The lifetime of an access token.
    pub token_lifetime: Duration,
    /// The cost of password hashes and the size of the pool that computes them.
    pub hashing: HashingConfig,
    /// Maximum open event streams of this process. A further one gets 503.
    pub max_streams: usize,
    /// The times of event streams.
    pub stream_times: StreamTimes,
    /// How long the activity log is kept, and how much of it.
    pub activity_retention: ActivityRetention,
    /// Issues credentials for integrators. None: the deployment has no credentials.
    pub credential_issuer: Option<Issuer>,
    /// Origins (`https://app.example.com`) in addition to the gateway's own whose pages may call it, with credentials.
    pub cors_allowed_origins: Vec<String>,
    /// The rules for webhooks.
    pub webhooks: WebhookRules,
    /// Development mode: serves GraphiQL, and GraphQL errors suggest names.
    pub development: bool,
    /// Whether GraphQL reads are compiled to plans. If not, the library's executor answers all of them.
    pub compiled_reads: bool,
}

impl Default for GatewayConfig {
    /// The defaults in `config.default.toml`.
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
            stream_times: StreamTimes {
                heartbeat_interval: Duration::from_secs(15),
                slow_consumer_timeout: Duration::from_secs(30),
            },
            activity_retention: ActivityRetention {
                max_age: Duration::from_hours(90 * 24),
                max_per_kind: 100_000,
            },
            credential_issuer: None,
            cors_allowed_origins: ["http://localhost:3000", "http://localhost:5173"]
                .map(str::to_owned)
                .into(),
            webhooks: WebhookRules { allow_private_addresses: false, max_dead_letters_per_endpoint: 10_000 },
            development: false,
            compiled_reads: true,
        }
    }
}
