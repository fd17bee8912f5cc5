//! The event store on a real PostgreSQL, as the real runtime roles.

mod append;
mod crash_points;
mod isolation;
mod read;
mod roles;
