//! The rules of external event types. One aggregate holds all versions of an event type, so that versions are
//! consecutive even with concurrent registrations.

use std::sync::Arc;

use access::{ErrorCode, Principal};
use describe::rejections;
use json_schema::InvalidSchema;
use schemas::engine::{JsonText, Notes};
use schemas::integration::event_type::{EventTypeCommand, EventTypeEvent, family_id};
use schemas::integration::names::ExternalType;
use serde::{Deserialize, Serialize};
use store::LockMode;

use super::schema_compatibility;
use crate::engine::context::{CommandContext, CommandSideEffects};
use crate::engine::decider::{Decider, Facts};
use crate::engine::executor::Executor;
use crate::engine::outcome::{CommandResult, ExecuteError};
use crate::identity::authority::FreshAuthority;

/// Maximum versions of an event type.
pub const VERSIONS_MAX: usize = 100;
/// Maximum bytes of all schemas and descriptions ever recorded for an event type. Each load of the aggregate reads all
/// of them.
pub const FAMILY_BYTES_MAX: usize = 1024 * 1024;

/// Why a registration was rejected.
#[rejections]
pub enum EventTypeRejection {
    /// Versions are consecutive from 1.
    #[rejection(EventTypeVersionGap, "the next version of this fact is v{next}", at = "type")]
    VersionGap {
        /// The version that may be registered.
        next: u32,
    },
    /// The schema rejects data that it accepted before.
    #[rejection(
        SchemaIncompatible,
        "the schema is narrower than before at {at}; register v{next}",
        at = "schema"
    )]
    Incompatible {
        /// The path to the keyword in the schema.
        at: String,
        /// The version to register instead.
        next: u32,
    },
    #[rejection(SchemaInvalid, "a fact has at most {VERSIONS_MAX} versions", at = "type")]
    VersionsExceeded,
    /// The recorded schemas and this one exceed [`FAMILY_BYTES_MAX`].
    #[rejection(
        SchemaInvalid,
        "the schemas of all versions of a fact, with those that were widened, have at most {FAMILY_BYTES_MAX} bytes",
        at = "schema"
    )]
    BytesExceeded,
    /// The schema is invalid or exceeds a limit.
    #[rejection(SchemaInvalid, "the schema cannot be used: {0}", at = "schema")]
    Schema(InvalidSchema),
}

/// One version of an event type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventTypeVersion {
    /// The type with its version.
    pub event_type: String,
    /// The schema of the payload.
    pub schema: JsonText,
    /// The description, if given.
    pub description: Option<Notes>,
}

/// The versions of an event type, folded from its events. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EventFamily {
    /// In ascending order: version n has index n - 1.
    pub versions: Vec<Arc<EventTypeVersion>>,
    /// Bytes of all recorded schemas and descriptions, including those that were replaced by wider ones.
    pub recorded_bytes: usize,
    /// Whether the last event registered a version; false if it widened one.
    pub last_is_registration: bool,
}

impl EventFamily {
    /// The version with this number, if it exists.
    pub fn version(&self, number: u32) -> Option<&Arc<EventTypeVersion>> {
        self.versions.get(usize::try_from(number).ok()?.checked_sub(1)?)
    }

    fn set(&mut self, event_type: &str, schema: JsonText, description: Option<Notes>) {
        self.recorded_bytes += recorded_bytes(&schema, description.as_ref());
        let version = Arc::new(EventTypeVersion { event_type: event_type.to_owned(), schema, description });
        match self.versions.iter_mut().find(|known| known.event_type == event_type) {
            Some(known) => *known = version,
            None => self.versions.push(version),
        }
    }
}

fn recorded_bytes(schema: &JsonText, description: Option<&Notes>) -> usize {
    schema.as_str().len() + description.map_or(0, |description| description.as_str().len())
}

impl Decider for EventFamily {
    type Command = EventTypeCommand;
    type Event = EventTypeEvent;
    type Rejection = EventTypeRejection;

    // A registration may come to an aggregate that exists.
    const EXISTS: ErrorCode = ErrorCode::Invalid;

    fn apply(&mut self, event: EventTypeEvent) {
        match event {
            EventTypeEvent::Registered { event_type, schema, description } => {
                self.set(event_type.as_str(), schema, description);
                self.last_is_registration = true;
            }
            EventTypeEvent::Widened { event_type, schema, description } => {
                self.set(event_type.as_str(), schema, description);
                self.last_is_registration = false;
            }
        }
    }

    fn decide(
        &self,
        command: EventTypeCommand,
        _facts: &Facts,
    ) -> Result<Vec<EventTypeEvent>, EventTypeRejection> {
        let EventTypeCommand::RegisterEventType { event_type, schema, description } = command;
        let next = self.versions.len() as u32 + 1;
        let name = event_type.event_type().clone();
        let has_room =
            self.recorded_bytes + recorded_bytes(&schema, description.as_ref()) <= FAMILY_BYTES_MAX;
        let Some(known) = self.version(event_type.number()) else {
            if event_type.number() != next {
                return Err(EventTypeRejection::VersionGap { next });
            }
            if self.versions.len() >= VERSIONS_MAX {
                return Err(EventTypeRejection::VersionsExceeded);
            }
            if !has_room {
                return Err(EventTypeRejection::BytesExceeded);
            }
            return Ok(vec![EventTypeEvent::Registered { event_type: name, schema, description }]);
        };
        // Schemas are compared by value: the order of members and the notation of numbers do not matter.
        let is_same = known.schema == schema || known.schema.json() == schema.json();
        if is_same && known.description == description {
            return Ok(Vec::new());
        }
        let (old, new) = (json_schema::expand(&known.schema), json_schema::expand(&schema));
        let (old, new) = (old.map_err(EventTypeRejection::Schema)?, new.map_err(EventTypeRejection::Schema)?);
        if let Err(at) = schema_compatibility::check_compatibility(&old, &new) {
            return Err(EventTypeRejection::Incompatible { at, next });
        }
        if !has_room {
            return Err(EventTypeRejection::BytesExceeded);
        }
        Ok(vec![EventTypeEvent::Widened { event_type: name, schema, description }])
    }
}

/// Registers a version of an event type, or widens one. It compiles and compares schemas, which takes processor time,
/// so it does not run on the async workers.
pub(super) async fn register(
    executor: &Executor,
    context: &CommandContext,
    command: EventTypeCommand,
) -> Result<CommandResult<EventFamily>, ExecuteError<EventTypeRejection>> {
    let EventTypeCommand::RegisterEventType { event_type, schema, .. } = &command;
    let id = family_id(event_type.family());
    if let Some(earlier) = executor.previous_result::<EventFamily>(context, id, command.clone()).await? {
        return Ok(earlier);
    }
    json_schema::compile(schema)
        .map_err(|error| ExecuteError::Rejected(EventTypeRejection::Schema(error)))?;
    // A registration cannot be undone, so it needs fresh authority.
    let category = event_type.category();
    let may = |current: &Principal| current.may_register_types(&category);
    let authority =
        FreshAuthority::confirm(executor, context.tenant, &context.caller, LockMode::Shared, may).await?;
    let done = executor.execute(context, id, command, CommandSideEffects::default()).await;
    authority.release().await;
    done
}

/// The versions of an event type and the version of their stream, if any is registered.
///
/// # Errors
/// The stream cannot be read.
pub async fn find(
    executor: &Executor,
    tenant: schemas::engine::TenantId,
    event_type: &ExternalType,
) -> Result<Option<(EventFamily, u64)>, store::StoreError> {
    executor.load::<EventFamily>(tenant, family_id(event_type.family())).await
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::{AggregateTestExecutor, TestFramework};
    use serde_json::{Value, json};

    use super::*;
    use crate::{CqrsAggregate, DecideError};

    fn register_with(name: &str, schema: JsonText, description: Option<Notes>) -> EventTypeCommand {
        let event_type = ExternalType::parse(name).expect("valid");
        EventTypeCommand::RegisterEventType { event_type, schema, description }
    }

    fn register(name: &str, schema: Value) -> EventTypeCommand {
        register_with(name, schema.into(), None)
    }

    /// The decision on a command.
    fn decided(
        family: &EventFamily,
        command: EventTypeCommand,
    ) -> Result<Vec<EventTypeEvent>, EventTypeRejection> {
        family.decide(command, &Facts::now())
    }

    fn registered(name: &str, schema: Value) -> EventTypeEvent {
        let event_type = ExternalType::parse(name).expect("valid").event_type().clone();
        EventTypeEvent::Registered { event_type, schema: schema.into(), description: None }
    }

    fn given(events: Vec<EventTypeEvent>) -> AggregateTestExecutor<CqrsAggregate<EventFamily>> {
        TestFramework::with(()).given(events)
    }

    const V1: &str = "ext.loyalty.account.opened.v1";
    const V2: &str = "ext.loyalty.account.opened.v2";

    #[test]
    fn versions_follow_each_other_without_gaps() {
        let schema = json!({"type": "string"});
        given(vec![])
            .when(register(V2, schema.clone()))
            .then_expect_error(DecideError::Rejected(EventTypeRejection::VersionGap { next: 1 }));
        given(vec![])
            .when(register(V1, schema.clone()))
            .then_expect_events(vec![registered(V1, schema.clone())]);
        // What a new version accepts is its own affair.
        given(vec![registered(V1, schema)])
            .when(register(V2, json!({"type": "integer"})))
            .then_expect_events(vec![registered(V2, json!({"type": "integer"}))]);
    }

    #[test]
    fn the_same_again_records_nothing() {
        let schema = json!({"type": "string"});
        given(vec![registered(V1, schema.clone())]).when(register(V1, schema)).then_expect_events(vec![]);
    }

    #[test]
    fn a_version_may_widen_and_not_narrow() {
        let old = json!({"type": "object", "properties": {"tier": {"enum": ["gold"]}}});
        let wide = json!({"type": "object", "properties": {"tier": {"enum": ["gold", "silver"]}}});
        let event_type = ExternalType::parse(V1).expect("valid").event_type().clone();
        let widened = EventTypeEvent::Widened { event_type, schema: wide.clone().into(), description: None };
        given(vec![registered(V1, old.clone())])
            .when(register(V1, wide.clone()))
            .then_expect_events(vec![widened]);
        given(vec![registered(V1, wide)]).when(register(V1, old)).then_expect_error(DecideError::Rejected(
            EventTypeRejection::Incompatible { at: "properties.tier.enum".to_owned(), next: 2 },
        ));
    }

    fn folded(events: Vec<EventTypeEvent>) -> EventFamily {
        let mut family = EventFamily::default();
        for event in events {
            family.apply(event);
        }
        family
    }

    #[test]
    fn the_same_in_other_writing_records_nothing() {
        let text = |text: &str| JsonText::parse(text).expect("JSON");
        let command = |schema| register_with(V1, text(schema), None);
        let family = folded(vec![registered(V1, json!({"maximum": 10, "minimum": 1}))]);
        let again = decided(&family, command(r#"{ "minimum": 1.0, "maximum": 1e1 }"#));
        assert_eq!(again, Ok(Vec::new()));
        // A double holds both of these alike.
        let family =
            folded(decided(&family, command(r#"{"maximum":100000000000000000001}"#)).expect("wider"));
        let next = decided(&family, command(r#"{"maximum":100000000000000000002}"#)).expect("wider");
        assert_eq!(next.len(), 1);
    }

    #[test]
    fn a_fact_has_a_limit_of_versions_and_of_bytes_in_all() {
        let name = |number: usize| format!("ext.loyalty.account.opened.v{number}");
        let full = folded((1..=VERSIONS_MAX).map(|number| registered(&name(number), json!({}))).collect());
        let next = register(&name(VERSIONS_MAX + 1), json!({}));
        assert_eq!(decided(&full, next), Err(EventTypeRejection::VersionsExceeded));
        // Widened versions count, because each load of the fact reads all of them.
        let long = |number: usize| json!({"enum": ["x".repeat(60_000)], "x": number});
        let event_type = ExternalType::parse(V1).expect("valid").event_type().clone();
        let widened = |number| {
            let (event_type, schema) = (event_type.clone(), long(number).into());
            EventTypeEvent::Widened { event_type, schema, description: None }
        };
        let times = FAMILY_BYTES_MAX / 60_000;
        let mut events = vec![registered(V1, long(0))];
        events.extend((1..times).map(widened));
        let heavy = folded(events);
        assert_eq!(heavy.versions.len(), 1);
        assert!(heavy.recorded_bytes <= FAMILY_BYTES_MAX);
        let next = register(V2, long(0));
        assert_eq!(decided(&heavy, next), Err(EventTypeRejection::BytesExceeded));
        let description = Notes::parse("means much").expect("valid");
        let described = register_with(V1, long(times - 1).into(), Some(description));
        assert_eq!(decided(&heavy, described), Err(EventTypeRejection::BytesExceeded));
        let small = register(V2, json!({}));
        assert_eq!(decided(&heavy, small).map(|events| events.len()), Ok(1));
    }

    #[test]
    fn states_are_shared_and_not_copied() {
        let family = folded(vec![registered(V1, json!({"enum": ["x".repeat(1_000)]}))]);
        let copy = family.clone();
        assert!(Arc::ptr_eq(&family.versions[0], &copy.versions[0]));
    }
}
