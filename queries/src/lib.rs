//! Reads of the read models and of single aggregates.
//!
//! Every read follows from the description of a read model (`schemas::engine::Model`): there is no code for a single one.
//!
//! - `select`: conditions and order, and the statements for them.
//! - `read` and `page`: rows, pages, counts, look-ups.
//! - `nodes`: rows of any read model by their ids.
//! - `related`: the rows that relations lead to, of many parents in one statement.
//! - `as_of`: one aggregate as it was, and its history.
//! - `rows`: one aggregate right after a command.
//! - `whole`: a whole read model as it was.
//! - `wait`: waits until read models have reached a position.
//!
//! Every read takes a tenant's handle; one without does not compile:
//!
//! ```compile_fail
//! # async fn example(store: store::Store, id: uuid::Uuid) {
//! let customer = queries::get(&store, projections::READ_MODELS[0].model, id).await;
//! # }
//! ```
//!
//! ```no_run
//! # async fn example(store: store::Store, tenant: schemas::engine::TenantId, id: uuid::Uuid) {
//! let customer = queries::get(&store.tenant(tenant), projections::READ_MODELS[0].model, id).await;
//! # }
//! ```
//!
//! A look-up by a column without an index does not compile either: only columns with an index have a `Lookup`.
//!
//! ```compile_fail
//! let lookup = projections::CustomerRow::NOTES;
//! ```
//!
//! ```
//! let lookup = projections::CustomerRow::USER_ID;
//! ```

pub mod engine;

pub use engine::as_of::{self, AsOf, History, Past};
pub use engine::cursor::{CursorScope, Place};
pub use engine::error::QueryError;
pub use engine::nodes::by_ids;
pub use engine::page::{Page, PagePlan, PageRequest, PageRows};
pub use engine::read::{Rows, entry, find, get};
pub use engine::related::{OfParent, RelatedRows, Relationship, relationships};
pub use engine::rows::{Reached, RowCache};
pub use engine::select::{Comparison, Condition, Select};
pub use engine::value::{self, Parameter};
pub use engine::wait::{WaitError, wait_for, wait_for_head};
pub use engine::whole::{self, PastChanges, PastRows};
pub use projections::{
    CUSTOMERS, CustomerRow, HistoricStateError, READ_MODELS, ReadModel, Record, RowChange, StoredRow, USERS,
    UserRow,
};
