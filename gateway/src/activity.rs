//! The activity log: `layer` records the outcomes of requests, `log` writes the entries.

pub mod layer;
pub mod log;

pub use log::ActivityLog;
