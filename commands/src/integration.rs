//! Integration: the rules of external event types and service tokens, and the use case of recording external events.

pub mod appending;
pub mod event_type;
pub mod json_schema;
pub mod service_token;
pub mod widening;
