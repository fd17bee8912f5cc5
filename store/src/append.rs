//! Appending events. A worker combines concurrent appends of many tenants into one flush.
//!
//! - `request`, `receipt` and `error` are what callers see.
//! - `queue` is bounded by `capacity` and starts the workers; `pending` is a queued append.
//! - `scheduler` selects the appends of the next flush.
//! - `lookup` reads what the flush depends on; `plan` decides in memory.
//! - `write` writes it in one statement: the rows depend on the compare-and-swap of the heads.
//! - `rejection` classifies errors of PostgreSQL.
//! - `worker` puts these together, and resolves unknown outcomes.

mod capacity;
mod error;
mod lookup;
mod pending;
mod plan;
mod queue;
mod receipt;
mod rejection;
mod request;
mod scheduler;
mod worker;
mod write;

pub use error::AppendError;
pub(crate) use queue::Appender;
pub use receipt::Receipt;
pub(crate) use request::PAYLOAD_JSON;
pub use request::{
    EVENT_BYTES_MAX, EVENTS_MAX, ExpectedVersion, NewEvent, NewTenant, Reservation, ReservationDigest,
    SECRET_BYTES_MAX, Secret, StreamAppend, TenantStatusChange,
};
