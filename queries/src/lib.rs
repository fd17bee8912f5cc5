//! Reads of the read models and of single aggregates.
//!
//! Layout: one folder a bounded context, one file a read model (filters, orders, look-ups); `engine` holds pages and
//! cursors, the wait for a position, and the fold of one aggregate's own stream.
//!
//! Every read takes a tenant's handle; one without does not compile:
//!
//! ```compile_fail
//! # async fn example(store: store::Store, id: uuid::Uuid) {
//! let customer = queries::crm::customer::get(&store, id).await;
//! # }
//! ```
//!
//! ```no_run
//! # async fn example(store: store::Store, tenant: schemas::engine::TenantId, id: uuid::Uuid) {
//! let customer = queries::crm::customer::get(&store.tenant(tenant), id).await;
//! # }
//! ```

#![expect(clippy::missing_errors_doc, reason = "the model layer replaces these files")]

pub mod crm;
pub mod engine;
pub mod identity;

pub use engine::as_of::{AsOf, History, Past};
pub use engine::error::QueryError;
pub use engine::page::{Page, PageRequest};
pub use engine::wait::{WaitError, wait_for, wait_for_head};
pub use engine::whole::{self, PastChanges, PastRows};
pub use projections::{
    CUSTOMERS, CustomerRow, Entry, HistoricStateError, READ_MODELS, ReadModel, RowChange, USERS, UserRow,
};
