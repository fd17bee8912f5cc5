//! What happens to every request before and after its handler: ids, log line, metrics, headers, errors, body checks.

pub mod content;
pub mod cors;
mod deadline;
pub mod failures;
pub mod fields;
pub mod headers;
pub mod idempotency;
pub mod observe;
mod origin;
pub mod path;
pub mod problem;
pub mod rescue;
pub mod tenancy;
pub mod unique_names;

pub use content::Body;
pub use fields::Fields;
pub use idempotency::IdempotencyKey;
pub use observe::RequestContext;
pub use path::Path;
pub use problem::{Code, FieldError, Problem};
pub use tenancy::NamedTenant;
