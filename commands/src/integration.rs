//! Integration: the rules of external event types and service tokens, and the use case of recording external events.

pub mod event_type;
pub mod external_append;
pub mod schema_compatibility;
pub mod service_token;
