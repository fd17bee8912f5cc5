//! The gateway as a whole: what its table of routes promises, over HTTP.

mod authority;
mod idempotency;
mod lists;
mod repeats;
mod requests;
