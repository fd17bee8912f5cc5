//! Layers and extractors around the handlers: ids, access log, metrics, headers, errors, checks of requests.

pub mod accept;
pub mod access_log;
pub mod authorization;
pub mod catch_panic;
pub mod compression;
pub mod consistency;
pub mod content;
pub mod cors;
mod deadline;
pub mod failures;
pub mod fields;
pub mod headers;
pub mod idempotency;
pub mod json;
pub mod log_id;
pub mod origin;
pub mod path;
pub mod problem;
pub mod query;
pub mod request_log;
pub mod route;
pub mod tenancy;

pub use access::ErrorCode;
pub use content::JsonBody;
pub use fields::JsonFields;
pub use idempotency::IdempotencyKey;
pub use path::Path;
pub use problem::{FieldError, Problem};
pub use query::{Digits, Query};
pub use request_log::RequestContext;
pub use tenancy::RequestTenant;
