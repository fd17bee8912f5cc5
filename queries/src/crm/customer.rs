//! Reads of customers.

use projections::{CUSTOMERS, CustomerRow, Entry};
use schemas::crm::customer::{CustomerEvent, CustomerStatus};
use schemas::engine::text::email_key;
use schemas::engine::{EmailKey, Event, Row as _, StreamName};
use serde::Serialize;
use store::sql::RawRow;
use store::{StoreError, TenantStore};
use uuid::Uuid;

use crate::engine::as_of::{self, AsOf, History};
use crate::engine::cursor::{Place, SortKey};
use crate::engine::error::{QueryError, corrupt};
use crate::engine::list::{Conditions, List, Order, named};
use crate::engine::page::{Page, PageRequest};

/// The scope that reads the rows.
pub const SCOPE: &str = "crm:read";

/// Which customers to list; every part given must hold.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct CustomerFilter {
    /// Where they stand.
    pub status: Option<CustomerStatus>,
    /// Their address, whatever its case.
    pub email: Option<String>,
    /// What their name starts with; case counts.
    pub name_prefix: Option<String>,
    /// The user that they are.
    pub user_id: Option<Uuid>,
}

/// The order of a list of customers. Names are compared by their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names say what they are")]
pub enum CustomerOrder {
    #[default]
    RegisteredAtAsc,
    RegisteredAtDesc,
    NameAsc,
    NameDesc,
}

const LIST: List<Entry<CustomerRow>> = List {
    projection: CUSTOMERS,
    table: CustomerRow::MODEL.table,
    columns: "id, user_id, name, email, email_key, company, notes, status, erased, version, registered_at, updated_at",
    read: from_row,
};

fn from_row(row: RawRow<'_>) -> Result<Entry<CustomerRow>, StoreError> {
    let read = || -> Result<Entry<CustomerRow>, Box<dyn std::error::Error + Send + Sync>> {
        let of_row = CustomerRow {
            user_id: row.get(1)?,
            name: row.get(2)?,
            email: row.get(3)?,
            email_key: EmailKey::of(row.get(4)?),
            company: row.get(5)?,
            notes: row.get(6)?,
            status: named(row.get(7)?)?,
            erased: row.get(8)?,
            registered_at: row.get(10)?,
        };
        let version = row.get::<i64>(9)? as u64;
        Ok(Entry { id: row.get(0)?, row: of_row, version, updated_at: row.get(11)? })
    };
    read().map_err(|error| corrupt(CustomerRow::MODEL.table, error))
}

impl CustomerOrder {
    fn order(self) -> Order<Entry<CustomerRow>> {
        fn by_time(row: &Entry<CustomerRow>) -> Place {
            Place { key: SortKey::Time(row.registered_at), id: row.id }
        }
        fn by_name(row: &Entry<CustomerRow>) -> Place {
            Place { key: SortKey::Text(row.name.clone()), id: row.id }
        }
        let time = |name, descending| Order { name, column: "registered_at", descending, place: by_time };
        let text = |name, descending| Order { name, column: "name", descending, place: by_name };
        match self {
            Self::RegisteredAtAsc => time("registered_at_asc", false),
            Self::RegisteredAtDesc => time("registered_at_desc", true),
            Self::NameAsc => text("name_asc", false),
            Self::NameDesc => text("name_desc", true),
        }
    }
}

fn conditions(tenant: &TenantStore, filter: &CustomerFilter) -> Conditions {
    let mut conditions = Conditions::of(tenant);
    if let Some(status) = filter.status {
        conditions.and("status", "=", status.as_str());
    }
    if let Some(email) = &filter.email {
        conditions.and_text("email_key", email_key(email));
    }
    if let Some(prefix) = &filter.name_prefix {
        conditions.and_starts_with("name", prefix);
    }
    if let Some(user_id) = filter.user_id {
        conditions.and("user_id", "=", user_id);
    }
    conditions
}

/// One customer.
pub async fn get(tenant: &TenantStore, id: Uuid) -> Result<Option<Entry<CustomerRow>>, QueryError> {
    let mut conditions = Conditions::of(tenant);
    conditions.and("id", "=", id);
    Ok(LIST.one(tenant, conditions).await?)
}

/// The customer that a user is.
pub async fn by_user(tenant: &TenantStore, user_id: Uuid) -> Result<Option<Entry<CustomerRow>>, QueryError> {
    let mut conditions = Conditions::of(tenant);
    conditions.and("user_id", "=", user_id);
    Ok(LIST.one(tenant, conditions).await?)
}

/// A page of customers.
pub async fn list(
    tenant: &TenantStore,
    filter: &CustomerFilter,
    order: CustomerOrder,
    page: PageRequest,
) -> Result<Page<Entry<CustomerRow>>, QueryError> {
    LIST.page(tenant, filter, || conditions(tenant, filter), order.order(), page).await
}

/// How many customers the filter finds.
pub async fn count(tenant: &TenantStore, filter: &CustomerFilter) -> Result<u64, QueryError> {
    Ok(LIST.count(tenant, conditions(tenant, filter)).await?)
}

/// The customer as its own events make it, up to `version` where given: what a command answers with.
pub async fn at_version(
    tenant: &TenantStore,
    id: Uuid,
    version: Option<u64>,
) -> Result<Option<Entry<CustomerRow>>, QueryError> {
    as_of::at::<CustomerRow>(tenant, &stream(id), version.map(AsOf::Version)).await
}

/// The customer as it was at a moment of its past.
pub async fn as_of(
    tenant: &TenantStore,
    id: Uuid,
    as_of: AsOf,
) -> Result<Option<Entry<CustomerRow>>, QueryError> {
    as_of::at_moment::<CustomerRow>(tenant, &stream(id), as_of).await
}

/// The customer's history behind version `after`, oldest first.
pub async fn history(
    tenant: &TenantStore,
    id: Uuid,
    after: u64,
    limit: usize,
) -> Result<History<Entry<CustomerRow>>, QueryError> {
    as_of::history::<CustomerRow>(tenant, &stream(id), after, limit).await
}

fn stream(id: Uuid) -> StreamName {
    StreamName::new(CustomerEvent::CATEGORY, id)
}
