//! The rules of external event types. One aggregate holds all versions of a fact, so that the next version follows the
//! last one however many register at once.

use access::{ErrorCode, Principal};
use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use schemas::integration::event_type::{
    EventTypeEvent, EventTypeRegistered, EventTypeWidened, RegisterEventType, family_id,
};
use schemas::integration::names::ExternalType;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::LockMode;

use super::json_schema::{self, InvalidSchema};
use super::widening;
use crate::engine::context::{CommandContext, Extras};
use crate::engine::executor::Executor;
use crate::engine::outcome::{ExecuteError, Executed};
use crate::engine::rules::{self, Rejection, Rules};
use crate::identity::authority::FreshAuthority;

crate::commands! {
    /// What can be asked of the versions of a fact.
    pub enum EventTypeCommand {
        creates Register(RegisterEventType);
    }
}

/// Why an event type was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventTypeRejection {
    /// The versions of a fact are 1, 2, 3, ...
    #[error("the next version of this fact is v{next}")]
    NotNext {
        /// The version that may be registered.
        next: u32,
    },
    /// The schema refuses something that it accepted before.
    #[error("the schema is narrower than before at {at}; register v{next}")]
    Narrower {
        /// Where, as a path into the schema.
        at: String,
        /// The version to register instead.
        next: u32,
    },
    /// The schema is none that can be kept.
    #[error("the schema cannot be used: {0}")]
    Schema(InvalidSchema),
}

impl Rejection for EventTypeRejection {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NotNext { .. } => ErrorCode::EventTypeVersionGap,
            Self::Narrower { .. } => ErrorCode::SchemaIncompatible,
            Self::Schema(_) => ErrorCode::SchemaInvalid,
        }
    }
}

/// One version of a fact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of EventTypeRegistered")]
pub struct Version {
    pub event_type: String,
    pub schema: Value,
    pub description: Option<String>,
}

/// The versions of a fact as its events have made them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EventFamily {
    /// In order: version n stands at n - 1.
    pub versions: Vec<Version>,
    /// Whether the last event brought a version, in contrast to one that widened a version.
    pub registered_last: bool,
}

impl EventFamily {
    /// A version of the fact.
    pub fn version(&self, number: u32) -> Option<&Version> {
        self.versions.get(usize::try_from(number).ok()?.checked_sub(1)?)
    }

    fn set(&mut self, event_type: &str, schema: Value, description: Option<String>) {
        let version = Version { event_type: event_type.to_owned(), schema, description };
        match self.versions.iter_mut().find(|known| known.event_type == event_type) {
            Some(known) => *known = version,
            None => self.versions.push(version),
        }
    }
}

impl Rules for EventFamily {
    fn decide(&self, command: EventTypeCommand) -> Result<Vec<EventTypeEvent>, EventTypeRejection> {
        let EventTypeCommand::Register(RegisterEventType { event_type, schema, description }) = command;
        let next = self.versions.len() as u32 + 1;
        let name = event_type.event_type().clone();
        let Some(known) = self.version(event_type.number()) else {
            if event_type.number() != next {
                return Err(EventTypeRejection::NotNext { next });
            }
            return Ok(vec![EventTypeEvent::Registered(EventTypeRegistered {
                event_type: name,
                schema,
                description,
            })]);
        };
        if known.schema == schema
            && known.description.as_deref() == description.as_ref().map(schemas::engine::Notes::as_str)
        {
            return Ok(Vec::new());
        }
        let (old, new) = (json_schema::expand(&known.schema), json_schema::expand(&schema));
        let (old, new) = (old.map_err(EventTypeRejection::Schema)?, new.map_err(EventTypeRejection::Schema)?);
        if let Err(at) = widening::accepts_all(&old.schema, &new.schema) {
            return Err(EventTypeRejection::Narrower { at, next });
        }
        Ok(vec![EventTypeEvent::Widened(EventTypeWidened { event_type: name, schema, description })])
    }

    fn exists(&self) -> bool {
        !self.versions.is_empty()
    }
}

impl Aggregate for EventFamily {
    const TYPE: &'static str = Self::CATEGORY;
    type Command = EventTypeCommand;
    type Event = EventTypeEvent;
    type Error = EventTypeRejection;
    type Services = ();

    async fn handle(
        &mut self,
        command: EventTypeCommand,
        _services: &(),
        sink: &EventSink<Self>,
    ) -> Result<(), EventTypeRejection> {
        rules::handle(self, command, sink).await
    }

    fn apply(&mut self, event: EventTypeEvent) {
        match event {
            EventTypeEvent::Registered(EventTypeRegistered { event_type, schema, description }) => {
                self.set(event_type.as_str(), schema, description.map(Into::into));
                self.registered_last = true;
            }
            EventTypeEvent::Widened(EventTypeWidened { event_type, schema, description }) => {
                self.set(event_type.as_str(), schema, description.map(Into::into));
                self.registered_last = false;
            }
        }
    }
}

/// Registers a version of a fact, or widens one. For tenant administrators and holders of the category's scope.
pub async fn register_event_type(
    executor: &Executor,
    context: &CommandContext,
    command: RegisterEventType,
) -> Result<Executed<EventFamily>, ExecuteError<EventTypeRejection>> {
    if !context.caller.may_register_types(&command.event_type.category()) {
        return Err(ExecuteError::Forbidden);
    }
    let id = family_id(command.event_type.family());
    if let Some(earlier) = executor.repeated::<EventFamily>(context, id, command.clone()).await? {
        return Ok(earlier);
    }
    let schema = command.schema.clone();
    // Patterns are compiled here, which takes milliseconds.
    tokio::task::spawn_blocking(move || json_schema::compile(&schema))
        .await
        .map_err(|error| ExecuteError::internal("compiling a schema", error))?
        .map_err(|error| ExecuteError::Rejected(EventTypeRejection::Schema(error)))?;
    // A type is registered for good.
    let category = command.event_type.category();
    let may = |current: &Principal| current.may_register_types(&category);
    let authority =
        FreshAuthority::confirm(executor, context.tenant, &context.caller, LockMode::Shared, may).await?;
    let done = executor.execute(context, id, command, Extras::default()).await;
    authority.release().await;
    done
}

/// The versions of a type's fact and the version of their stream, where the fact is registered.
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
    use serde_json::json;

    use super::*;

    fn register(name: &str, schema: Value) -> RegisterEventType {
        RegisterEventType { event_type: ExternalType::parse(name).expect("valid"), schema, description: None }
    }

    fn registered(name: &str, schema: Value) -> EventTypeEvent {
        let event_type = ExternalType::parse(name).expect("valid").event_type().clone();
        EventTypeEvent::Registered(EventTypeRegistered { event_type, schema, description: None })
    }

    fn given(events: Vec<EventTypeEvent>) -> AggregateTestExecutor<EventFamily> {
        TestFramework::with(()).given(events)
    }

    const V1: &str = "ext.loyalty.account.opened.v1";
    const V2: &str = "ext.loyalty.account.opened.v2";

    #[test]
    fn versions_follow_each_other_without_gaps() {
        let schema = json!({"type": "string"});
        given(vec![])
            .when(register(V2, schema.clone()).into())
            .then_expect_error(EventTypeRejection::NotNext { next: 1 });
        given(vec![])
            .when(register(V1, schema.clone()).into())
            .then_expect_events(vec![registered(V1, schema.clone())]);
        // What a new version accepts is its own affair.
        given(vec![registered(V1, schema)])
            .when(register(V2, json!({"type": "integer"})).into())
            .then_expect_events(vec![registered(V2, json!({"type": "integer"}))]);
    }

    #[test]
    fn the_same_again_records_nothing() {
        let schema = json!({"type": "string"});
        given(vec![registered(V1, schema.clone())])
            .when(register(V1, schema).into())
            .then_expect_events(vec![]);
    }

    #[test]
    fn a_version_may_widen_and_not_narrow() {
        let old = json!({"type": "object", "properties": {"tier": {"enum": ["gold"]}}});
        let wide = json!({"type": "object", "properties": {"tier": {"enum": ["gold", "silver"]}}});
        let event_type = ExternalType::parse(V1).expect("valid").event_type().clone();
        let widened = EventTypeWidened { event_type, schema: wide.clone(), description: None };
        given(vec![registered(V1, old.clone())])
            .when(register(V1, wide.clone()).into())
            .then_expect_events(vec![EventTypeEvent::Widened(widened)]);
        given(vec![registered(V1, wide)]).when(register(V1, old).into()).then_expect_error(
            EventTypeRejection::Narrower { at: "properties.tier.enum".to_owned(), next: 2 },
        );
    }
}
