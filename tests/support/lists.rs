//! Lists and look-ups of read models, with typed rows.

use queries::{AsOf, PageRequest, QueryError, ReadModel, Select, StoredRow, as_of};
use schemas::engine::Row;
use serde_json::Value;
use store::TenantStore;
use uuid::Uuid;

/// A page with typed rows.
pub struct TypedPage<R> {
    pub rows: Vec<StoredRow<R>>,
    pub cursors: Vec<String>,
    pub has_next: bool,
    pub has_previous: bool,
    pub total: Option<u64>,
}

impl<R> TypedPage<R> {
    /// The cursors of the first and the last row.
    pub fn ends(&self) -> Option<(String, String)> {
        self.cursors.first().cloned().zip(self.cursors.last().cloned())
    }

    pub fn ids(&self) -> Vec<Uuid> {
        self.rows.iter().map(|row| row.id).collect()
    }
}

/// The rows of a client's filter in an order such as `NAME_ASC`.
pub fn select<R: Row>(filter: &Value, order: &str) -> Select {
    let filter = filter.as_object().expect("a filter is an object");
    Select::of(R::MODEL).filtered(filter).expect("a valid filter").ordered(order)
}

pub async fn list<R: Row>(
    tenant: &TenantStore,
    select: &Select,
    request: PageRequest,
) -> Result<TypedPage<R>, QueryError> {
    let page = select.page(tenant, &request, true).await?;
    Ok(TypedPage {
        cursors: page.rows.iter().map(|row| page.cursor(row)).collect(),
        rows: page.rows.into_iter().map(|row| queries::entry(row).expect("a row of this type")).collect(),
        has_next: page.has_next,
        has_previous: page.has_previous,
        total: page.total,
    })
}

pub async fn get<R: Row>(tenant: &TenantStore, id: Uuid) -> Option<StoredRow<R>> {
    let row = queries::get(tenant, R::MODEL, id).await.expect("reads");
    row.map(|row| queries::entry(row).expect("a row of this type"))
}

/// The row at a moment, from the aggregate's own events.
pub async fn as_of<R: Row>(
    tenant: &TenantStore,
    id: Uuid,
    moment: Option<AsOf>,
) -> Result<Option<StoredRow<R>>, QueryError> {
    let read_model = ReadModel::find(R::MODEL.name).expect("a read model");
    let row = as_of::at(tenant, read_model, id, moment).await?;
    Ok(row.map(|row| queries::entry(row).expect("a row of this type")))
}
