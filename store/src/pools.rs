//! The database logins and connection pools. Private to the store: no other crate gets a raw connection.

use std::time::Duration;

use database::{
    Connector, DatabaseConfig, POOL_WAIT_TIMEOUT, Password, Pool, PooledConnection, ReadPool, ReadPoolConfig,
};
use fairness::{Limits, Permits};
use hmac::{Hmac, KeyInit, Mac};
use schemas::engine::TenantId;
use sha2::Sha256;

use crate::{StoreConfig, StoreError};

/// The runtime roles. `migrations/V2__policies.sql` and later migrations grant their rights.
/// `docs/roles.md` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DatabaseRole {
    Appender,
    Lookup,
    Tenant,
    Projector,
    Scratch,
    Worker,
    Relay,
    Sealer,
}

impl DatabaseRole {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Appender => "annals_appender",
            Self::Lookup => "annals_lookup",
            Self::Tenant => "annals_tenant",
            Self::Projector => "annals_projector",
            Self::Scratch => "annals_scratch",
            Self::Worker => "annals_worker",
            Self::Relay => "annals_relay",
            Self::Sealer => "annals_sealer",
        }
    }
}

/// The password of a runtime role, derived by HMAC from the runtime password of the settings.
/// It works for this role only, and does not reveal the runtime password, which is random.
pub fn role_password(runtime_password: &str, role: &str) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(runtime_password.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(b"annals database role\0");
    mac.update(role.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

/// Options of every session.
///
/// Statements have a timeout. The timeout of idle transactions is shorter, because they may hold locks.
/// The JIT compiler is off: the estimated cost grows with the table.
/// So the compilation of short reads of a large log would take longer than the reads.
const SESSION_OPTIONS: &str =
    "-c statement_timeout=30s -c idle_in_transaction_session_timeout=10s -c jit=off";

/// Sizes of the pools that do not grow with `pool_size`. Their transactions are short.
const LOCK_CONNECTIONS_MAX: usize = 4;
const WORKER_CONNECTIONS_MAX: usize = 3;
const RELAY_CONNECTIONS_MAX: usize = 3;
const SEALER_CONNECTIONS_MAX: usize = 2;

/// Maximum connections per database role and process.
/// The replacement of a log and the work on a historical state each need one more while they run.
pub fn connection_limits(pool_size: usize, append_workers: usize) -> [(&'static str, usize); 7] {
    [
        (DatabaseRole::Appender.name(), append_workers),
        (DatabaseRole::Lookup.name(), append_workers),
        (DatabaseRole::Tenant.name(), read_connections(pool_size) + transaction_connections(pool_size)),
        (DatabaseRole::Projector.name(), pool_size + LOCK_CONNECTIONS_MAX),
        // The pool, and one connection for LISTEN.
        (DatabaseRole::Worker.name(), WORKER_CONNECTIONS_MAX + 1),
        (DatabaseRole::Relay.name(), RELAY_CONNECTIONS_MAX),
        (DatabaseRole::Sealer.name(), SEALER_CONNECTIONS_MAX),
    ]
}

/// Maximum connections for reads in one round trip. Each runs several groups of one tenant one after the other.
fn read_connections(pool_size: usize) -> usize {
    pool_size.div_ceil(2)
}

/// Maximum connections for read-only transactions of several round trips.
fn transaction_connections(pool_size: usize) -> usize {
    (pool_size - pool_size.div_ceil(2)).max(1)
}

/// A tenant may use three quarters of the connections of a pool.
fn tenant_share(connections: usize) -> usize {
    (connections * 3).div_ceil(4)
}

/// The logins of the roles.
#[derive(Clone)]
pub(crate) struct Logins {
    any: Connector,
    runtime_password: Password,
}

impl Logins {
    fn new(config: &StoreConfig) -> Result<Self, StoreError> {
        let any = Connector::new(&DatabaseConfig {
            host: config.host.clone(),
            port: config.port,
            name: config.database.clone(),
            user: String::new(),
            password: Password::default(),
            application_name: String::new(),
            options: SESSION_OPTIONS.to_owned(),
            tls: config.tls.clone(),
        });
        let any = any.map_err(|error| StoreError::from(database::ConnectError::from(error)))?;
        Ok(Self { any, runtime_password: config.runtime_password.as_str().into() })
    }

    /// The login of a role.
    pub(crate) fn of(&self, role: DatabaseRole) -> Connector {
        let password = role_password(self.runtime_password.reveal(), role.name());
        self.any.with_login(role.name(), &password, role.name())
    }
}

/// A pool with a fair share per tenant: the slow statements of one tenant never use all connections.
pub(crate) struct FairPool {
    pool: Pool,
    permits: Permits<TenantId>,
}

/// Maximum transactions that wait for a connection, per tenant and in total.
const TENANT_WAITERS_MAX: usize = 256;
const WAITERS_MAX: usize = 4_096;

impl FairPool {
    fn new(pool: Pool) -> Self {
        // The last free connection is reserved for tenants without one.
        let permits = pool.size();
        let limits = Limits {
            permits,
            permits_per_key: tenant_share(permits),
            reserved: usize::from(permits > 1),
            waiting: TENANT_WAITERS_MAX,
            waiting_total: WAITERS_MAX,
        };
        Self { pool, permits: Permits::new(limits, POOL_WAIT_TIMEOUT) }
    }

    /// A connection for a tenant, after a fair wait.
    pub(crate) async fn get(&self, tenant: TenantId) -> Result<PooledConnection, StoreError> {
        let permit = self.permits.acquire(tenant).await.map_err(|_| StoreError::Overloaded)?;
        Ok(self.pool.get().await?.with_companion(permit))
    }
}

pub(crate) struct Pools {
    pub(crate) logins: Logins,
    /// Read-only transactions of tenants.
    pub(crate) tenant: FairPool,
    /// Reads of tenants in one round trip.
    pub(crate) reads: ReadPool,
    pub(crate) projector: FairPool,
    /// A separate pool of the projector for locks.
    /// The holder of a lock also needs a projector connection, and must not wait for those of other lock holders.
    pub(crate) locks: FairPool,
    pub(crate) worker: Pool,
    pub(crate) relay: Pool,
    pub(crate) sealer: Pool,
    pub(crate) idle_timeout: Duration,
}

impl Pools {
    pub(crate) fn new(config: &StoreConfig) -> Result<Self, StoreError> {
        let logins = Logins::new(config)?;
        let pool = |role, size| Pool::new(logins.of(role), size, config.idle_timeout);
        let fair = |role, size| FairPool::new(pool(role, size));
        let connections = read_connections(config.pool_size);
        let reads = ReadPoolConfig {
            connections,
            connections_per_key: tenant_share(connections),
            idle_timeout: config.idle_timeout,
        };
        Ok(Self {
            reads: ReadPool::new(&logins.of(DatabaseRole::Tenant), reads),
            tenant: fair(DatabaseRole::Tenant, transaction_connections(config.pool_size)),
            projector: fair(DatabaseRole::Projector, config.pool_size),
            locks: fair(DatabaseRole::Projector, LOCK_CONNECTIONS_MAX),
            worker: pool(DatabaseRole::Worker, WORKER_CONNECTIONS_MAX),
            relay: pool(DatabaseRole::Relay, RELAY_CONNECTIONS_MAX),
            sealer: pool(DatabaseRole::Sealer, SEALER_CONNECTIONS_MAX),
            idle_timeout: config.idle_timeout,
            logins,
        })
    }

    /// A pool of one connection for one user, so that temporary tables exist in each of its transactions.
    pub(crate) fn single(&self, role: DatabaseRole, options: &str) -> FairPool {
        FairPool::new(Pool::new(self.logins.of(role).with_options(options), 1, SINGLE_IDLE_TIMEOUT))
    }
}

/// The session has temporary tables, so it is kept for long.
const SINGLE_IDLE_TIMEOUT: Duration = Duration::from_hours(1);

/// A pooled connection with a cache of prepared statements.
pub(crate) async fn get(pool: &Pool) -> Result<PooledConnection, StoreError> {
    Ok(pool.get().await?)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::migrate::RUNTIME_ROLES;

    #[test]
    fn each_role_has_a_password_of_its_own() {
        let passwords: HashSet<String> =
            RUNTIME_ROLES.iter().map(|role| role_password("secret", role)).collect();
        assert_eq!(passwords.len(), RUNTIME_ROLES.len());
        assert!(!passwords.contains(&role_password("other", "annals_worker")));
        // The value must not change, because processes of two releases must agree.
        let known = "7e64363be75616034ac1d518d29bf8e899274fcd6b8816bd0db0d8e263366ebd";
        assert_eq!(role_password("secret", "annals_worker"), known);
    }
}
