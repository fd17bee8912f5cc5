//! Streams of events for those who follow a tenant's log.

pub mod sse;
