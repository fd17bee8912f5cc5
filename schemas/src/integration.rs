//! Integration: services in other processes, their event types and their tokens.

pub mod event_type;
pub mod names;
pub mod service_token;
