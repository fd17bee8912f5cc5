//! Connections to PostgreSQL, one pool a runtime role. Private to the store: nobody outside gets a raw connection.

use std::time::Duration;

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, PoolConfig, RecyclingMethod, Runtime, Timeouts,
};
use fairness::{Limits, Permit, Permits};
use schemas::engine::TenantId;
use tokio_postgres::{Client, NoTls};
use tokio_util::task::AbortOnDropHandle;

use crate::{StoreConfig, StoreError};

/// The runtime roles: what each may do stands in `migrations/V2__policies.sql`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Appender,
    Lookup,
    Tenant,
    Projector,
    Worker,
    Relay,
    Sealer,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Appender => "annals_appender",
            Self::Lookup => "annals_lookup",
            Self::Tenant => "annals_tenant",
            Self::Projector => "annals_projector",
            Self::Worker => "annals_worker",
            Self::Relay => "annals_relay",
            Self::Sealer => "annals_sealer",
        }
    }
}

/// How long to wait for a connection before the request is refused as unavailable.
pub(crate) const WAIT: Duration = Duration::from_secs(3);
/// How long a server may leave bytes unacknowledged, or keepalives unanswered, before its connection counts as broken: a
/// host that is gone says nothing, and TCP by itself would try for a quarter of an hour.
const SILENCE: Duration = Duration::from_secs(10);

/// Requests of one tenant, and of all, that wait for a connection of a pool.
const WAITING_MAX: (usize, usize) = (1_000, 20_000);

/// A pool whose connections tenants share fairly: a tenant with many slow transactions leaves some to the others.
pub(crate) struct SharedPool {
    pool: Pool,
    turns: Permits<TenantId>,
}

impl SharedPool {
    fn new(pool: Pool, size: usize) -> Self {
        let size = size.max(1);
        let limits = Limits {
            permits: size,
            share: size - size / 4,
            reserved: size / 8,
            waiting: WAITING_MAX.0,
            waiting_total: WAITING_MAX.1,
        };
        Self { pool, turns: Permits::new(limits, WAIT) }
    }

    /// A connection when it is the tenant's turn, with the permit that goes with it.
    pub(crate) async fn get(&self, tenant: TenantId) -> Result<(Object, Permit<TenantId>), StoreError> {
        let permit = self.turns.acquire(tenant).await.map_err(|_| StoreError::Overloaded)?;
        Ok((get(&self.pool).await?, permit))
    }

    /// A connection for what concerns no single tenant, such as an operator's command.
    pub(crate) async fn get_for_all(&self) -> Result<Object, StoreError> {
        get(&self.pool).await
    }
}

pub(crate) struct Pools {
    pub(crate) tenant: SharedPool,
    pub(crate) projector: SharedPool,
    pub(crate) worker: Pool,
    pub(crate) relay: Pool,
    pub(crate) sealer: Pool,
}

impl Pools {
    pub(crate) fn new(config: &StoreConfig) -> Result<Self, StoreError> {
        Ok(Self {
            tenant: SharedPool::new(pool(config, Role::Tenant, config.pool_size)?, config.pool_size),
            projector: SharedPool::new(pool(config, Role::Projector, config.pool_size)?, config.pool_size),
            worker: pool(config, Role::Worker, 4)?,
            relay: pool(config, Role::Relay, 4)?,
            sealer: pool(config, Role::Sealer, 4)?,
        })
    }
}

fn pool(config: &StoreConfig, role: Role, size: usize) -> Result<Pool, StoreError> {
    pool_of(settings(config, role), size)
}

/// A pool of one connection that nobody else uses: what a session keeps is there in each of its transactions.
pub(crate) fn single(config: &StoreConfig, role: Role, options: &str) -> Result<Pool, StoreError> {
    let mut settings = settings(config, role);
    settings.options(options);
    pool_of(settings, 1)
}

fn pool_of(settings: tokio_postgres::Config, size: usize) -> Result<Pool, StoreError> {
    let manager =
        Manager::from_config(settings, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
    let timeouts = Timeouts { wait: Some(WAIT), create: Some(WAIT), recycle: Some(WAIT) };
    Pool::builder(manager)
        .config(PoolConfig { max_size: size.max(1), timeouts, ..PoolConfig::default() })
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| StoreError::Config(error.to_string()))
}

/// Statements are bounded, so that no wait is endless; idle transactions more tightly, because a process that stands still in
/// the middle of one holds locks that its fellows wait for. PostgreSQL compiles the plan of a statement that it expects to
/// take long, anew each time, and what it expects grows with the table: of a large log, statements that read little of it
/// would be compiled for longer than they run.
const OPTIONS: &str = "-c statement_timeout=30s -c idle_in_transaction_session_timeout=10s -c jit=off";

/// Connection settings of a runtime role.
pub(crate) fn settings(config: &StoreConfig, role: Role) -> tokio_postgres::Config {
    let mut settings = tokio_postgres::Config::new();
    settings
        .host(&config.host)
        .port(config.port)
        .dbname(&config.database)
        .user(role.name())
        .password(&config.runtime_password)
        .application_name(role.name())
        .connect_timeout(WAIT)
        .keepalives_idle(SILENCE)
        .keepalives_interval(SILENCE / 3)
        .keepalives_retries(3)
        .tcp_user_timeout(SILENCE)
        .options(OPTIONS);
    settings
}

/// A connection outside any pool, for the append lanes, with the task that drives it. Without its driver it is closed, and
/// whoever waits on it is told so.
pub(crate) async fn connect(
    config: &StoreConfig,
    role: Role,
    options: &str,
) -> Result<(Client, AbortOnDropHandle<()>), StoreError> {
    let mut settings = settings(config, role);
    settings.options(format!("{OPTIONS} {options}"));
    // The settings bound the TCP handshake alone; a server that accepts and says nothing must not hold anybody up.
    let connected = tokio::time::timeout(WAIT, settings.connect(NoTls)).await;
    let (client, connection) =
        connected.map_err(|_| StoreError::Unavailable("the server does not answer".to_owned()))??;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a database connection ended");
        }
    });
    Ok((client, AbortOnDropHandle::new(driver)))
}

/// A pooled connection; its statements are prepared once and cached.
pub(crate) async fn get(pool: &Pool) -> Result<Object, StoreError> {
    Ok(pool.get().await?)
}
