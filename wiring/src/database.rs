//! Connections to PostgreSQL from the settings: the owner's for migrations, and the store of a process.

use std::time::Duration;

use ::database::DatabaseConfig;
use anyhow::Context;
use commands::Executor;
use keyring::Keyring;
use settings::Settings;
use store::{DeploymentKey, OwnerConfig, Store, StoreConfig};

use super::broker::{nats_config, verifier};
use super::keys::keyring;

/// Maximum bytes of aggregates that the executor caches: about 100,000 small ones.
const CACHED_AGGREGATES_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Migrates the database to the present version.
///
/// # Errors
/// When a password is not set, a setting is not valid, a server cannot be reached, or a migration fails.
pub async fn migrate(settings: &Settings) -> anyhow::Result<()> {
    if let Some(keys) = &settings.privacy.key_database()? {
        let owner = settings.privacy.keys_owner()?;
        keyring::migrate(keys, &owner).await.context("the database of keys cannot be brought up to date")?;
    }
    let runtime_password = settings.database.runtime_password()?;
    store::migrate::run(&owner(settings)?, runtime_password.reveal(), &projections::tables())
        .await
        .context("the database cannot be brought up to date")
}

/// Rewrites the tables of read models, so that no old row versions remain. `written` gets the name of each table.
///
/// # Errors
/// When the owner's password is not set, a setting is not valid, the server cannot be reached, or PostgreSQL refuses to
/// rewrite a table.
pub async fn compact(settings: &Settings, written: impl FnMut(&str)) -> anyhow::Result<()> {
    store::migrate::compact(&owner(settings)?, &projections::tables(), written)
        .await
        .context("the read models cannot be written anew")
}

fn owner(settings: &Settings) -> anyhow::Result<OwnerConfig> {
    let database = &settings.database;
    Ok(OwnerConfig {
        host: database.host.clone(),
        port: database.port,
        database: database.name.clone(),
        user: database.owner_user.clone(),
        password: database.owner_password()?.reveal().to_owned(),
        tls: database.tls()?,
    })
}

/// The login of the role `annals_worker`, for queries that need no store.
///
/// # Errors
/// When the runtime password is not set or cannot be read, or the TLS mode is unknown.
pub fn worker_login(settings: &Settings) -> anyhow::Result<DatabaseConfig> {
    let (database, user) = (&settings.database, "annals_worker");
    let password = store::role_password(database.runtime_password()?.reveal(), user);
    Ok(DatabaseConfig {
        host: database.host.clone(),
        port: database.port,
        name: database.name.clone(),
        user: user.to_owned(),
        password: password.into(),
        application_name: user.to_owned(),
        options: String::new(),
        tls: database.tls()?,
    })
}

/// Connects to the store.
///
/// # Errors
/// As [`keyring`](crate::keyring) and [`connect_with`].
pub async fn connect(settings: &Settings) -> anyhow::Result<Store> {
    connect_with(settings, keyring(settings).await?).await
}

/// Connects to the store with these encryption keys. Without keys, personal data stays encrypted.
///
/// # Errors
/// When a password or the deployment key is not set or not valid. When PostgreSQL cannot be reached or is not migrated,
/// or when the keys belong to another deployment.
pub async fn connect_with(settings: &Settings, keyring: Option<Keyring>) -> anyhow::Result<Store> {
    let database = &settings.database;
    let config = StoreConfig {
        host: database.host.clone(),
        port: database.port,
        database: database.name.clone(),
        tls: database.tls()?,
        runtime_password: database.runtime_password()?.reveal().to_owned(),
        key: DeploymentKey::from_hex(settings.secrets.deployment_key()?.reveal())?,
        keyring,
        append_workers: database.append_workers,
        pool_size: database.pool_size,
        idle_timeout: Duration::from_secs(database.idle_timeout_seconds),
    };
    let store = Store::connect(config).await.context("the store cannot be used")?;
    store.set_verifier(verifier(store.clone(), nats_config(settings)));
    Ok(store)
}

/// The executor of commands.
pub fn executor(store: &Store) -> Executor {
    Executor::new(store.clone(), CACHED_AGGREGATES_BYTES_MAX)
}
