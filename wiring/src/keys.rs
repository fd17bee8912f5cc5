//! Encryption keys, the key of access tokens, and password hashing, from the settings.

use std::time::Duration;

use anyhow::Context;
use gateway::auth::{HashingConfig, Passwords, SigningKey};
use keyring::{KeyStoreConfig, Keyring, RootKey, RootKeys};
use store::DeploymentKey;

use settings::{Settings, SettingsError};

/// The encryption keys. `None` when the settings name no key store.
///
/// # Errors
/// As [`keys`]. Also when the key store cannot be opened or reached, or the root keys are not those of the store.
pub async fn keyring(settings: &Settings) -> anyhow::Result<Option<Keyring>> {
    let Some((store, roots)) = keys(settings)? else { return Ok(None) };
    let lease = Duration::from_secs(settings.privacy.key_lease_seconds);
    store.open(roots, lease).await.context("the keys of personal data cannot be used").map(Some)
}

/// The key store and its root keys. `None` when the settings name no key store. Afterwards this process writes no core
/// files.
///
/// # Errors
/// When a setting of the key store is not valid, a root key is not set or not valid, or core files cannot be disabled.
pub fn keys(settings: &Settings) -> anyhow::Result<Option<(KeyStoreConfig, RootKeys)>> {
    let privacy = &settings.privacy;
    let Some(store) = privacy.key_store()? else { return Ok(None) };
    crate::limits::disable_core_files().context("core files cannot be turned off")?;
    let root = RootKey::from_hex(privacy.root_key()?.reveal()).context("`privacy.root_key`")?;
    let previous = privacy.previous_root_key()?.map(|key| RootKey::from_hex(key.reveal()));
    let previous = previous.transpose().context("`privacy.previous_root_key`")?;
    Ok(Some((store, RootKeys::new(root, previous))))
}

/// The key that signs access tokens.
pub(super) fn signing_key(settings: &Settings) -> anyhow::Result<SigningKey> {
    Ok(SigningKey::from_pem(settings.identity.signing_key()?.reveal())?)
}

/// The errors of keys that are set and malformed.
pub fn malformed_keys(settings: &Settings) -> Vec<SettingsError> {
    let invalid = |key, error: &dyn std::fmt::Display| SettingsError::Invalid {
        key,
        problem: format!("is no key: {error}"),
    };
    let deployment =
        settings.secrets.deployment_key().ok().and_then(|key| DeploymentKey::from_hex(key.reveal()).err());
    let tokens =
        settings.identity.signing_key().ok().and_then(|key| SigningKey::from_pem(key.reveal()).err());
    let deployment = deployment.map(|error| invalid("secrets.deployment_key", &error));
    deployment.into_iter().chain(tokens.map(|error| invalid("identity.signing_key", &error))).collect()
}

/// Hashes passwords like the gateway, for commands that register users without one.
///
/// # Errors
/// When Argon2 does not accept the cost in the settings.
pub fn passwords(settings: &Settings) -> anyhow::Result<Passwords> {
    Passwords::start(&hashing_config(settings)).context("passwords cannot be hashed")
}

pub(super) fn hashing_config(settings: &Settings) -> HashingConfig {
    let identity = &settings.identity;
    HashingConfig {
        memory_kib: identity.argon2_memory_kib,
        iterations: identity.argon2_iterations,
        threads: identity.hashing_threads(),
        max_queued_per_tenant: identity.argon2_max_queued_per_tenant,
        max_wait: Duration::from_millis(identity.argon2_max_wait_ms),
    }
}
