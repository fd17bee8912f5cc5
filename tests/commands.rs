//! The executor, the use cases of registration and the cqrs-es adapter, on a real PostgreSQL.

mod administration;
mod cqrs_framework;
mod executor;
mod idempotency;
mod registration;
mod repeats;
mod snapshots;
