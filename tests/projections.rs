//! Read models on a real PostgreSQL: whatever a source of events does, the table is a fold of the log.

mod crash_points;
mod feeding;
mod folding;
mod pausing;
mod poison;
mod rebuild;
mod replay;
