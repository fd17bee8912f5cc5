//! The gateway as a whole: what its table of routes promises, over HTTP.

mod auditor_streams;
mod authority;
mod ecosystem;
mod idempotency;
mod listeners;
mod lists;
mod live_streams;
mod plans;
mod relations;
mod repeats;
mod requests;
mod stream_tickets;
