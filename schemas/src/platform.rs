//! The bounded context `platform`: events about the logs themselves.

pub mod log;
