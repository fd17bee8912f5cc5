//! What every aggregate shares: load, decide, append, retry, idempotency, the cqrs-es adapter.

pub mod any_aggregate;
pub mod context;
pub mod cqrs_store;
pub mod decider;
pub mod executor;
mod fingerprints;
pub mod idempotency;
pub mod loading;
pub mod outcome;
mod prepared;
