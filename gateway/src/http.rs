//! What happens to every request before and after its handler: ids, log line, metrics, headers, errors, body checks.

pub mod accept;
pub mod access_log;
pub mod compression;
pub mod consistency;
pub mod content;
pub mod cors;
mod deadline;
pub mod failures;
pub mod fields;
pub mod guard;
pub mod headers;
pub mod idempotency;
pub mod json;
pub mod observe;
mod origin;
pub mod path;
pub mod problem;
pub mod query;
pub mod rescue;
pub mod route;
pub mod tenancy;

pub use access::ErrorCode;
pub use content::Body;
pub use fields::Fields;
pub use idempotency::IdempotencyKey;
pub use observe::RequestContext;
pub use path::Path;
pub use problem::{FieldError, Problem};
pub use query::{Digits, Query};
pub use tenancy::NamedTenant;
