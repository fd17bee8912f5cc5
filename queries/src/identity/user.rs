//! Reads of users.

use projections::{Entry, USERS, UserRow};
use schemas::engine::text::email_key;
use schemas::engine::{EmailKey, Event, Row as _, StreamName};
use schemas::identity::user::{UserEvent, UserStatus};
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
pub const SCOPE: &str = "users:read";

/// Which users to list; every part given must hold.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct UserFilter {
    /// Where they stand.
    pub status: Option<UserStatus>,
    /// Their address, whatever its case.
    pub email: Option<String>,
    /// What their name starts with; case counts.
    pub name_prefix: Option<String>,
}

/// The order of a list of users. Names are compared by their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names say what they are")]
pub enum UserOrder {
    #[default]
    RegisteredAtAsc,
    RegisteredAtDesc,
    NameAsc,
    NameDesc,
}

const LIST: List<Entry<UserRow>> = List {
    projection: USERS,
    table: UserRow::MODEL.table,
    columns: "id, email, email_key, name, roles, status, erased, version, registered_at, updated_at",
    read: from_row,
};

fn from_row(row: RawRow<'_>) -> Result<Entry<UserRow>, StoreError> {
    let read = || -> Result<Entry<UserRow>, Box<dyn std::error::Error + Send + Sync>> {
        let roles: Vec<&str> = row.get(4)?;
        let of_row = UserRow {
            email: row.get(1)?,
            email_key: EmailKey::of(row.get(2)?),
            name: row.get(3)?,
            roles: roles.into_iter().map(named).collect::<Result<_, _>>()?,
            status: named(row.get(5)?)?,
            erased: row.get(6)?,
            registered_at: row.get(8)?,
        };
        let version = row.get::<i64>(7)? as u64;
        Ok(Entry { id: row.get(0)?, row: of_row, version, updated_at: row.get(9)? })
    };
    read().map_err(|error| corrupt(UserRow::MODEL.table, error))
}

impl UserOrder {
    fn order(self) -> Order<Entry<UserRow>> {
        fn by_time(row: &Entry<UserRow>) -> Place {
            Place { key: SortKey::Time(row.registered_at), id: row.id }
        }
        fn by_name(row: &Entry<UserRow>) -> Place {
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

fn conditions(tenant: &TenantStore, filter: &UserFilter) -> Conditions {
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
    conditions
}

/// One user.
pub async fn get(tenant: &TenantStore, id: Uuid) -> Result<Option<Entry<UserRow>>, QueryError> {
    let mut conditions = Conditions::of(tenant);
    conditions.and("id", "=", id);
    Ok(LIST.one(tenant, conditions).await?)
}

/// A page of users.
pub async fn list(
    tenant: &TenantStore,
    filter: &UserFilter,
    order: UserOrder,
    page: PageRequest,
) -> Result<Page<Entry<UserRow>>, QueryError> {
    LIST.page(tenant, filter, || conditions(tenant, filter), order.order(), page).await
}

/// At most `limit` users in the order of their ids, and the id behind which the next page starts; none on the last page.
pub async fn by_id(
    tenant: &TenantStore,
    after: Option<Uuid>,
    limit: usize,
) -> Result<(Vec<Entry<UserRow>>, Option<Uuid>), StoreError> {
    LIST.by_id(tenant, Conditions::of(tenant), after, limit, |row| row.id).await
}

/// How many users the filter finds.
pub async fn count(tenant: &TenantStore, filter: &UserFilter) -> Result<u64, QueryError> {
    Ok(LIST.count(tenant, conditions(tenant, filter)).await?)
}

/// The user as its own events make it, up to `version` where given: what a command answers with.
pub async fn at_version(
    tenant: &TenantStore,
    id: Uuid,
    version: Option<u64>,
) -> Result<Option<Entry<UserRow>>, QueryError> {
    as_of::at::<UserRow>(tenant, &stream(id), version.map(AsOf::Version)).await
}

/// The user as it was at a moment of its past.
pub async fn as_of(
    tenant: &TenantStore,
    id: Uuid,
    as_of: AsOf,
) -> Result<Option<Entry<UserRow>>, QueryError> {
    as_of::at_moment::<UserRow>(tenant, &stream(id), as_of).await
}

/// The user's history behind version `after`, oldest first.
pub async fn history(
    tenant: &TenantStore,
    id: Uuid,
    after: u64,
    limit: usize,
) -> Result<History<Entry<UserRow>>, QueryError> {
    as_of::history::<UserRow>(tenant, &stream(id), after, limit).await
}

fn stream(id: Uuid) -> StreamName {
    StreamName::new(UserEvent::CATEGORY, id)
}
