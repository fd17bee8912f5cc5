//! Reads of users.

use projections::{Projection, USERS, UserRow, Users};
use schemas::engine::text::email_key;
use schemas::engine::{Event, StreamName};
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
pub const SCOPE: &str = Users::SCOPE;

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

const LIST: List<UserRow> = List {
    projection: USERS,
    table: Users::TABLE,
    columns: "id, email, email_key, name, roles, status, version, registered_at, updated_at",
    read: from_row,
};

fn from_row(row: RawRow<'_>) -> Result<UserRow, StoreError> {
    let read = || -> Result<UserRow, Box<dyn std::error::Error + Send + Sync>> {
        let roles: Vec<&str> = row.get(4)?;
        Ok(UserRow {
            id: row.get(0)?,
            email: row.get(1)?,
            email_key: row.get(2)?,
            name: row.get(3)?,
            roles: roles.into_iter().map(named).collect::<Result<_, _>>()?,
            status: named(row.get(5)?)?,
            version: row.get::<i64>(6)? as u64,
            registered_at: row.get(7)?,
            updated_at: row.get(8)?,
        })
    };
    read().map_err(|error| corrupt(Users::TABLE.name, error))
}

impl UserOrder {
    fn order(self) -> Order<UserRow> {
        fn by_time(row: &UserRow) -> Place {
            Place { key: SortKey::Time(row.registered_at), id: row.id }
        }
        fn by_name(row: &UserRow) -> Place {
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
pub async fn get(tenant: &TenantStore, id: Uuid) -> Result<Option<UserRow>, QueryError> {
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
) -> Result<Page<UserRow>, QueryError> {
    LIST.page(tenant, filter, || conditions(tenant, filter), order.order(), page).await
}

/// At most `limit` users in the order of their ids, and the id behind which the next page starts; none on the last page.
pub async fn by_id(
    tenant: &TenantStore,
    after: Option<Uuid>,
    limit: usize,
) -> Result<(Vec<UserRow>, Option<Uuid>), StoreError> {
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
) -> Result<Option<UserRow>, QueryError> {
    as_of::at::<Users>(tenant, &stream(id), version.map(AsOf::Version)).await
}

/// The user as it was at a moment of its past.
pub async fn as_of(tenant: &TenantStore, id: Uuid, as_of: AsOf) -> Result<Option<UserRow>, QueryError> {
    as_of::at_moment::<Users>(tenant, &stream(id), as_of).await
}

/// The user's history behind version `after`, oldest first.
pub async fn history(
    tenant: &TenantStore,
    id: Uuid,
    after: u64,
    limit: usize,
) -> Result<History<UserRow>, QueryError> {
    as_of::history::<Users>(tenant, &stream(id), after, limit).await
}

fn stream(id: Uuid) -> StreamName {
    StreamName::new(UserEvent::CATEGORY, id)
}
