//! What the listeners do with connections and requests before any handler: limits, timeouts, malformed HTTP, proxies, lines
//! of the access log, and what answers cost in memory.

mod access_log;
mod connections;
mod malformed;
mod memory;
mod proxies;
