//! The bounded context `platform`: what happens to the keeping of facts itself.

pub mod log;
