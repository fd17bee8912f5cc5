//! The event store on a real PostgreSQL, as the real runtime roles.

mod append;
mod crash_points;
mod flushes;
mod invariants;
mod isolation;
mod limits;
mod read;
mod receipts;
mod requests;
mod roles;
mod serial;
