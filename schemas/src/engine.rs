//! Shared by all contexts: ids, names, value objects, metadata, the event and command traits.

pub mod canonical;
pub mod clock;
pub mod command;
pub mod event;
pub mod exact_json;
pub mod field;
pub mod ids;
pub mod invalid_value;
pub mod json_schema;
pub mod metadata;
pub mod model;
pub mod names;
pub mod recorded;
pub mod registry;
pub mod sealed;
pub mod text;
pub mod time;
pub mod values;

pub use command::{CommandTarget, CommandType, Commands};
pub use describe::{commands, enumeration, events, read_model, value_object};
pub use event::{AnyEvents, DecodeError, Event, Moment};
pub use exact_json::{Json, JsonText, NotJson};
pub use field::{
    Enumeration, EnumerationType, EnumerationValue, Field, FieldType, Input, InputError, InputReader, Kind,
    ValueObject, ValueObjectType,
};
pub use ids::{LogId, TenantId};
pub use invalid_value::InvalidValue;
pub use metadata::{Actor, Metadata, RequestId};
pub use model::{Back, Column, Lookup, Model, Relation, Row, Selectivity};
pub use names::{EventType, StreamName, TenantSlug, TypePattern};
pub use recorded::RecordedEvent;
pub use registry::{Registry, RegistryInUse};
pub use sealed::Sealed;
pub use time::parse_time;
pub use values::{Email, EmailKey, Name, Notes, Reason};
