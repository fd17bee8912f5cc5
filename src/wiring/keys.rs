//! The keys of access tokens and the hashing of passwords, by the settings.

use std::time::Duration;

use anyhow::Context;
use gateway::auth::{HashingConfig, Passwords, SigningKey};
use store::DeploymentKey;

use super::Role;
use crate::config::{Settings, SettingsError};

/// The key that signs access tokens. A process without the role gateway issues none and takes none, so where it has no
/// key it gets one that is used for nothing.
pub(super) fn signing_key(settings: &Settings, roles: &[Role]) -> anyhow::Result<SigningKey> {
    let pem = match settings.identity.signing_key() {
        Err(SettingsError::Missing(_)) if !Role::needs(roles).tokens => SigningKey::generate_pem()?,
        configured => configured?.reveal().to_owned(),
    };
    Ok(SigningKey::from_pem(&pem)?)
}

/// Keys that are set and are no keys.
pub fn malformed_keys(settings: &Settings) -> Vec<SettingsError> {
    let invalid = |key, error: &dyn std::fmt::Display| SettingsError::Invalid {
        key,
        problem: format!("is no key: {error}"),
    };
    let deployment = settings.secrets.key().ok().and_then(|key| DeploymentKey::from_hex(key.reveal()).err());
    let tokens =
        settings.identity.signing_key().ok().and_then(|key| SigningKey::from_pem(key.reveal()).err());
    let deployment = deployment.map(|error| invalid("secrets.key", &error));
    deployment.into_iter().chain(tokens.map(|error| invalid("identity.signing_key", &error))).collect()
}

/// Hashes passwords as the gateway does, for commands that register users without one.
pub fn passwords(settings: &Settings) -> anyhow::Result<Passwords> {
    Passwords::start(&hashing_config(settings)).context("passwords cannot be hashed")
}

pub(super) fn hashing_config(settings: &Settings) -> HashingConfig {
    let identity = &settings.identity;
    HashingConfig {
        memory_kib: identity.argon2_memory_kib,
        iterations: identity.argon2_iterations,
        threads: identity.hashing_threads(),
        waiting_per_tenant: identity.argon2_waiting_per_tenant,
        wait: Duration::from_millis(identity.argon2_wait_ms),
    }
}
