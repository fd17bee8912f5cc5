//! What happens to every request before and after its handler: ids, log line, metrics, headers, errors, body checks.

pub mod content;
pub mod cors;
mod deadline;
pub mod failures;
pub mod fields;
pub mod guard;
pub mod headers;
pub mod idempotency;
pub mod observe;
mod origin;
pub mod problem;
pub mod rescue;
pub mod route;
pub mod tenancy;
pub mod unique_names;

pub use access::ErrorCode;
pub use content::Body;
pub use fields::Fields;
pub use idempotency::IdempotencyKey;
pub use observe::RequestContext;
pub use problem::{FieldError, Problem};
pub use tenancy::NamedTenant;
