//! The event store on a real PostgreSQL, as the real runtime roles.

mod append;
mod isolation;
mod read;
mod roles;
