//! The directory of tenants.

use chrono::{DateTime, Utc};
use schemas::engine::{LogId, TenantId, TenantSlug};
use schemas::identity::tenant::{Registration, Tier};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::StoreError;
use crate::pools::{Pools, get};

/// A tenant in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRecord {
    /// The internal id.
    pub id: TenantId,
    /// The public name, unique in the deployment.
    pub slug: TenantSlug,
    /// The display name.
    pub name: String,
    /// Its tier.
    pub tier: Tier,
    /// How users can register: openly, by invitation or not at all.
    pub registration: Registration,
    /// Whether the tenant is suspended. Clients get the same answer as for an unknown tenant.
    pub suspended: bool,
    /// The time at which its log was created.
    pub opened_at: DateTime<Utc>,
}

const COLUMNS: &str = "tenant_id, slug, name, tier, registration, suspended, opened_at";

pub(crate) async fn by_slug(pools: &Pools, slug: &TenantSlug) -> Result<Option<TenantRecord>, StoreError> {
    let statement = format!("select {COLUMNS} from tenants where slug = $1");
    get(&pools.worker)
        .await?
        .query_opt(&statement, &[&slug.as_str()])
        .await?
        .as_ref()
        .map(record_from)
        .transpose()
}

pub(crate) async fn by_id(pools: &Pools, id: TenantId) -> Result<Option<TenantRecord>, StoreError> {
    let statement = format!("select {COLUMNS} from tenants where tenant_id = $1");
    get(&pools.worker).await?.query_opt(&statement, &[&id.0]).await?.as_ref().map(record_from).transpose()
}

pub(crate) async fn page(
    pools: &Pools,
    after: Option<&TenantSlug>,
    limit: u32,
) -> Result<Vec<TenantRecord>, StoreError> {
    let statement = format!("select {COLUMNS} from tenants where slug > $1 order by slug limit $2");
    let after = after.map_or("", TenantSlug::as_str);
    let rows = get(&pools.worker).await?.query(&statement, &[&after, &i64::from(limit)]).await?;
    rows.iter().map(record_from).collect()
}

/// The status of a tenant, with the head of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantStatus {
    /// The tenant.
    pub tenant: TenantId,
    /// Whether the tenant is suspended.
    pub suspended: bool,
    /// The current log of the tenant.
    pub log_id: LogId,
    /// The head of that log.
    pub position: u64,
}

pub(crate) async fn tenant_statuses(
    pools: &Pools,
    tenants: &[Uuid],
) -> Result<Vec<TenantStatus>, StoreError> {
    let connection = get(&pools.worker).await?;
    let statement = "select t.tenant_id, t.suspended, h.log_id, h.position
             from tenants t join heads h on h.tenant_id = t.tenant_id where t.tenant_id = any($1)";
    let rows = connection.query(statement, &[&tenants]).await?;
    let tenant_status = |row: &Row| TenantStatus {
        tenant: TenantId(row.get(0)),
        suspended: row.get(1),
        log_id: LogId(row.get(2)),
        position: row.get::<_, i64>(3) as u64,
    };
    Ok(rows.iter().map(tenant_status).collect())
}

fn record_from(row: &Row) -> Result<TenantRecord, StoreError> {
    let tier = match row.get::<_, &str>(3) {
        "free" => Tier::Free,
        "pro" => Tier::Pro,
        "enterprise" => Tier::Enterprise,
        other => return Err(StoreError::corrupt("a tenant's tier", other)),
    };
    let registration = match row.get::<_, &str>(4) {
        "open" => Registration::Open,
        "invitation" => Registration::Invitation,
        "closed" => Registration::Closed,
        other => return Err(StoreError::corrupt("a tenant's registration", other)),
    };
    Ok(TenantRecord {
        id: TenantId(row.get(0)),
        slug: TenantSlug::parse(row.get(1))?,
        name: row.get(2),
        tier,
        registration,
        suspended: row.get(5),
        opened_at: row.get(6),
    })
}
