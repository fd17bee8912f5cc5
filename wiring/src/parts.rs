//! Settings of the parts of a process, from the settings of the deployment.

use std::time::Duration;

use anyhow::Context;
use audit::{Signer, SignerConfig};
use gateway::{ActivityRetention, GatewayConfig, StreamTimes, WebhookRules};
use nats::Issuer;
use sagas::{RetrySettings, SagaSettings};
use webhooks::WebhookSettings;

use super::keys::hashing_config;
use settings::Settings;

/// The signer of checkpoints.
pub(super) fn signer(settings: &Settings) -> anyhow::Result<Signer> {
    let audit = &settings.audit;
    let config = SignerConfig {
        deployment: audit.deployment.clone(),
        key: audit.signing_key()?.reveal().to_owned(),
        previous_signing_key: audit.previous_signing_key()?.map(|key| key.reveal().to_owned()),
        folder: audit.state_folder()?,
    };
    Signer::open(&config).context("the role sealer")
}

/// The settings of the gateway.
pub(super) fn gateway_config(settings: &Settings, issuer: Option<Issuer>) -> GatewayConfig {
    let (gateway, identity) = (&settings.gateway, &settings.identity);
    GatewayConfig {
        public_host: gateway.public_host.clone(),
        issuer: identity.issuer.clone(),
        token_lifetime: Duration::from_secs(u64::from(identity.access_token_lifetime_seconds)),
        hashing: hashing_config(settings),
        max_streams: gateway.max_streams,
        stream_times: StreamTimes {
            heartbeat_interval: Duration::from_secs(gateway.heartbeat_interval_seconds),
            slow_consumer_timeout: Duration::from_secs(gateway.slow_consumer_timeout_seconds),
        },
        activity_retention: ActivityRetention {
            max_age: Duration::from_hours(24) * settings.activity.retention_days,
            max_per_kind: settings.activity.max_entries_per_kind,
        },
        credential_issuer: issuer,
        cors_allowed_origins: gateway.cors_allowed_origins.clone(),
        webhooks: WebhookRules {
            allow_private_addresses: settings.webhooks.allow_private_addresses,
            max_dead_letters_per_endpoint: settings.webhooks.max_dead_letters_per_endpoint,
        },
        development: gateway.graphiql,
        compiled_reads: gateway.compiled_reads,
    }
}

/// The settings of the saga engine.
pub(super) fn saga_settings(settings: &Settings) -> SagaSettings {
    let saga = &settings.saga;
    let retry = RetrySettings {
        first: Duration::from_millis(saga.initial_delay_ms),
        cap: Duration::from_millis(saga.max_delay_ms),
        max_attempts: saga.max_attempts,
        ..RetrySettings::default()
    };
    SagaSettings { retry, ..SagaSettings::default() }
}

/// The settings of webhook deliveries.
pub(super) fn webhook_settings(settings: &Settings) -> WebhookSettings {
    let webhooks = &settings.webhooks;
    WebhookSettings {
        allow_private_addresses: webhooks.allow_private_addresses,
        timeout: Duration::from_secs(webhooks.request_timeout_seconds),
        max_concurrent_requests_per_tenant: webhooks.max_concurrent_requests_per_tenant,
        requests: webhooks.max_concurrent_requests,
        initial_delay: Duration::from_millis(webhooks.initial_delay_ms),
        max_delay: Duration::from_millis(webhooks.max_delay_ms),
        retry_for: Duration::from_secs(webhooks.max_retry_seconds),
        disable_after: Duration::from_secs(webhooks.disable_after_seconds),
        max_dead_letters_per_endpoint: webhooks.max_dead_letters_per_endpoint,
    }
}
