//! Shared by all contexts: ids, names, value objects, metadata, the event and command traits.

pub mod canonical;
pub mod clock;
pub mod command;
pub mod event;
pub mod exact_json;
pub mod ids;
pub mod json_schema;
pub mod metadata;
pub mod names;
pub mod recorded;
pub mod sealed;
pub mod text;
pub mod time;
pub mod values;

pub use command::Command;
pub use event::{DecodeError, Event};
pub use exact_json::{Json, JsonText, NotJson};
pub use ids::{LogId, TenantId};
pub use metadata::{Actor, Metadata, RequestId};
pub use names::{EventType, StreamName, TenantSlug, TypePattern};
pub use recorded::RecordedEvent;
pub use sealed::Sealed;
pub use time::parse_time;
pub use values::{Email, InvalidValue, Name, Notes, Reason};
