//! Records events of services: checks the permission, recognises a repeat, checks names and data, and appends.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fairness::{Limits, Workers};
use json_schema::{Budget, CompiledSchema};
use moka::sync::Cache;
use schemas::engine::{Json, LogId, StreamName, TenantId, canonical, ids, sealed};
use schemas::integration::event_type::EventTypeCommand;
use schemas::integration::names::{ExternalCategory, ExternalType};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use store::{
    AppendError, ConsistencyToken, ExpectedVersion, KeyUse, NewEvent, Receipt, RequestDigest, StoreError,
    StreamAppend,
};
use uuid::Uuid;

use super::event_type::{self, EventFamily, EventTypeRejection, EventTypeVersion};
use crate::engine::context::CommandContext;
use crate::engine::executor::Executor;
use crate::engine::idempotency::claim;
use crate::engine::outcome::{CommandResult, ExecuteError};

/// Maximum events of one request.
pub const EVENTS_MAX: usize = 100;
const COMMAND_NAME: &str = "AppendEvents";
/// Maximum bytes of cached compiled schemas.
const COMPILED_BYTES_MAX: u64 = 64 * 1024 * 1024;
const COMPILED_IDLE_TTL: Duration = Duration::from_mins(10);
/// Maximum requests of one tenant that wait for a thread to check their data, and their maximum wait.
const QUEUED_CHECKS_MAX: usize = 128;
const CHECK_WAIT_TIMEOUT: Duration = Duration::from_secs(3);
/// Threads that register schemas, and maximum requests of one tenant that wait for one.
const REGISTRATION_THREADS: usize = 2;
const QUEUED_REGISTRATIONS_MAX: usize = 16;

/// An event to record for a service.
#[derive(Debug, Clone)]
pub struct ExternalEvent {
    /// The event's id, if the service chose one.
    pub id: Option<Uuid>,
    /// Its registered type.
    pub event_type: ExternalType,
    /// Its data as received; they are stored unchanged.
    pub data: Bytes,
    /// The parsed data.
    pub value: Value,
}

/// A request of a service to append events.
#[derive(Debug, Clone)]
pub struct ExternalAppend {
    /// The category of the stream.
    pub category: ExternalCategory,
    /// The stream to append to.
    pub stream: StreamName,
    /// The expected version of the stream.
    pub expected: ExpectedVersion,
    /// The events, 1 to [`EVENTS_MAX`].
    pub events: Vec<ExternalEvent>,
}

/// The result of an append, now or by the first request under the same command id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalReceipt {
    /// The stream.
    pub stream: StreamName,
    /// The version of the last event.
    pub version: u64,
    /// The position of the last event.
    pub position: u64,
    /// The number of events.
    pub count: u32,
    /// The log of the position.
    pub log_id: LogId,
    /// A read with this token sees the events.
    pub consistency_token: String,
}

/// An invalid value of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidField {
    /// The path to the value, separated by dots.
    pub field: String,
    /// A stable code in snake case.
    pub code: &'static str,
    /// A message for people.
    pub message: String,
}

/// Why events were not recorded.
#[derive(Debug, thiserror::Error)]
pub enum ExternalAppendError {
    /// The caller lacks the permission for this category.
    #[error("the caller may not append to this category")]
    Forbidden,
    /// Names or data are invalid.
    #[error("some events are not valid")]
    Invalid(Vec<InvalidField>),
    /// An event with this id exists.
    #[error("an event with the id {0} is recorded already")]
    EventIdTaken(Uuid),
    /// The store rejected the append.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Keyed by tenant, type and the version of the stream that holds the type's schema, so an entry never becomes stale.
type CompiledSchemas = Cache<(TenantId, ExternalType, u64), CompiledSchema>;

/// Records events of services and registers their types. Cheap to clone.
/// The clones share one bounded cache of compiled schemas and the threads that use them. Schemas are programs of
/// tenants, so they never run on the async workers.
#[derive(Clone)]
pub struct ExternalEvents {
    executor: Executor,
    compiled: CompiledSchemas,
    checking: Workers<TenantId>,
    registering: Workers<TenantId>,
}

/// The schema of an event's type.
#[derive(Clone)]
enum TypeSchema {
    CompiledSchema(CompiledSchema),
    Registered(Arc<EventTypeVersion>, (TenantId, ExternalType, u64)),
}

/// Data of one event to check.
struct UncheckedEvent {
    index: usize,
    data: Bytes,
    schema: TypeSchema,
}

impl ExternalEvents {
    /// Creates the use cases on the executor's store.
    pub fn new(executor: Executor) -> Self {
        let compiled = Cache::builder()
            .max_capacity(COMPILED_BYTES_MAX)
            .weigher(|_, compiled: &CompiledSchema| u32::try_from(compiled.bytes()).unwrap_or(u32::MAX))
            .time_to_idle(COMPILED_IDLE_TTL)
            .build();
        let threads = std::thread::available_parallelism().map_or(2, usize::from).max(2);
        let workers =
            |threads, waiting| Workers::new(Limits::half_per_key(threads, waiting), CHECK_WAIT_TIMEOUT);
        Self {
            executor,
            compiled,
            checking: workers(threads, QUEUED_CHECKS_MAX),
            registering: workers(REGISTRATION_THREADS, QUEUED_REGISTRATIONS_MAX),
        }
    }

    /// Registers a version of an event type, or widens one. The caller must be a tenant administrator or have the
    /// category's scope.
    ///
    /// # Errors
    /// [`ExecuteError::Forbidden`] without the permission, [`ExecuteError::Overloaded`] if the queue is full, and
    /// [`ExecuteError::Rejected`] for an invalid or incompatible schema.
    pub async fn register_type(
        &self,
        context: &CommandContext,
        command: EventTypeCommand,
    ) -> Result<CommandResult<EventFamily>, ExecuteError<EventTypeRejection>> {
        let EventTypeCommand::RegisterEventType { event_type, .. } = &command;
        if !context.caller.may_register_types(&event_type.category()) {
            return Err(ExecuteError::Forbidden);
        }
        let (executor, context) = (self.executor.clone(), context.clone());
        let runtime = tokio::runtime::Handle::current();
        let registered = self.registering.run(context.tenant, move |()| {
            runtime.block_on(event_type::register(&executor, &context, command))
        });
        registered.await.map_err(|error| match error {
            fairness::WorkError::Refused(_) => ExecuteError::Overloaded,
            fairness::WorkError::Stopped(error) => ExecuteError::internal("registering an event type", error),
        })?
    }

    /// The receipt of the context's request, if it was executed before.
    ///
    /// # Errors
    /// [`AppendError::CommandIdReused`] if the key was used for another request.
    pub async fn previous_receipt(
        &self,
        context: &CommandContext,
    ) -> Result<Option<ExternalReceipt>, ExternalAppendError> {
        let (Some(key), Some(digest)) = (context.command_id, context.request_digest) else { return Ok(None) };
        let claim = claim(&context.caller, key, digest)?;
        match self.executor.store().tenant(context.tenant).key_use(&claim).await? {
            KeyUse::Unused => Ok(None),
            KeyUse::Repeat(receipt) => Ok(Some(self.receipt(context.tenant, receipt))),
            KeyUse::Other => Err(AppendError::CommandIdReused.into()),
        }
    }

    /// Appends all events, or none.
    ///
    /// # Errors
    /// [`ExternalAppendError::Invalid`] names every invalid value.
    pub async fn append(
        &self,
        context: &CommandContext,
        request: ExternalAppend,
    ) -> Result<ExternalReceipt, ExternalAppendError> {
        let result = self.check_and_append(context, request).await;
        let outcome = match &result {
            Ok(receipt) if receipt.duplicate => "duplicate",
            Ok(_) => "applied",
            Err(ExternalAppendError::Forbidden) => "forbidden",
            Err(ExternalAppendError::Invalid(_) | ExternalAppendError::EventIdTaken(_)) => "invalid",
            Err(ExternalAppendError::Append(AppendError::VersionConflict { .. })) => "version_conflict",
            Err(_) => "failed",
        };
        metrics::counter!("annals_commands_total", "command" => COMMAND_NAME, "outcome" => outcome)
            .increment(1);
        Ok(self.receipt(context.tenant, result?))
    }

    fn receipt(&self, tenant: TenantId, receipt: Receipt) -> ExternalReceipt {
        let Receipt { stream, version, log_id, position, count, .. } = receipt;
        let token = ConsistencyToken { tenant, log_id, position };
        let consistency_token = token.encode(self.executor.store().key());
        ExternalReceipt { stream, version, position, count, log_id, consistency_token }
    }

    async fn check_and_append(
        &self,
        context: &CommandContext,
        request: ExternalAppend,
    ) -> Result<Receipt, ExternalAppendError> {
        if !context.caller.may_append(&request.category) {
            return Err(ExternalAppendError::Forbidden);
        }
        let tenant = self.executor.store().tenant(context.tenant);
        let claim = match context.command_id {
            Some(key) => Some(claim(&context.caller, key, self.digest(context, &request)?)?),
            None => None,
        };
        // A repeat gets the first answer, even if it would be rejected now.
        if let Some(claim) = &claim {
            match tenant.key_use(claim).await? {
                KeyUse::Unused => {}
                KeyUse::Repeat(receipt) => return Ok(receipt),
                KeyUse::Other => return Err(AppendError::CommandIdReused.into()),
            }
        }
        let wrong = self.invalid_fields(context.tenant, &request).await?;
        if !wrong.is_empty() {
            return Err(ExternalAppendError::Invalid(wrong));
        }
        let command_id = context.command_id.unwrap_or_else(ids::new_id);
        let new_event = |event: &ExternalEvent| NewEvent {
            event_id: event.id,
            event_type: event.event_type.event_type().clone(),
            payload: event.data.clone(),
            subject_keys: Vec::new(),
        };
        let mut append = StreamAppend::new(
            request.stream.clone(),
            request.expected,
            request.events.iter().map(new_event).collect(),
            context.metadata(command_id),
        );
        append.claim = claim;
        tenant.append(append).await.map_err(|error| match error {
            AppendError::EventIdTaken(id) => ExternalAppendError::EventIdTaken(id),
            error => error.into(),
        })
    }

    /// All invalid types of the events, and all data that their schemas reject.
    async fn invalid_fields(
        &self,
        tenant: TenantId,
        request: &ExternalAppend,
    ) -> Result<Vec<InvalidField>, ExternalAppendError> {
        let mut wrong = Vec::new();
        let mut seen = HashSet::new();
        let mut schemas: HashMap<&ExternalType, Option<TypeSchema>> = HashMap::new();
        let mut unchecked = Vec::new();
        for (index, event) in request.events.iter().enumerate() {
            let mut note = |field: &str, code, message: &str| {
                wrong.push((index, InvalidField::of_event(index, field, code, message)));
            };
            if event.id.is_some_and(|id| !seen.insert(id)) {
                note("id", "repeated", "must be another one for each event");
            }
            if event.event_type.category() != request.category {
                note("type", "type_of_other_category", &format!("must start with {}.", request.category));
                continue;
            }
            if let Some(member) = sealed::reserved(&event.value) {
                note("data", "reserved_member", &format!("must not have a member {member}"));
            }
            let schema = if let Some(known) = schemas.get(&event.event_type) {
                known.clone()
            } else {
                let found = self.schema(tenant, &event.event_type).await?;
                schemas.insert(&event.event_type, found.clone());
                found
            };
            match schema {
                None => note("type", "type_unregistered", "must be registered first"),
                Some(schema) => unchecked.push(UncheckedEvent { index, data: event.data.clone(), schema }),
            }
        }
        if !unchecked.is_empty() {
            let compiled = self.compiled.clone();
            let checked = self.checking.run(tenant, move |()| check(&compiled, unchecked)).await;
            wrong.extend(checked.map_err(|error| match error {
                fairness::WorkError::Refused(_) => ExternalAppendError::Append(AppendError::Overloaded),
                fairness::WorkError::Stopped(error) => StoreError::Corrupt(error.to_string()).into(),
            })?);
        }
        wrong.sort_by_key(|(index, _)| *index);
        Ok(wrong.into_iter().map(|(_, field)| field).collect())
    }

    async fn schema(
        &self,
        tenant: TenantId,
        event_type: &ExternalType,
    ) -> Result<Option<TypeSchema>, StoreError> {
        let Some((family, version)) = event_type::find(&self.executor, tenant, event_type).await? else {
            return Ok(None);
        };
        let Some(registered) = family.version(event_type.number()) else { return Ok(None) };
        let key = (tenant, event_type.clone(), version);
        Ok(Some(match self.compiled.get(&key) {
            Some(compiled) => TypeSchema::CompiledSchema(compiled),
            None => TypeSchema::Registered(Arc::clone(registered), key),
        }))
    }

    /// The digest of the whole request if known, otherwise of the append, with the data as received.
    fn digest(
        &self,
        context: &CommandContext,
        request: &ExternalAppend,
    ) -> Result<[u8; 32], ExternalAppendError> {
        if let Some(digest) = context.request_digest {
            return Ok(digest);
        }
        let expected = match request.expected {
            ExpectedVersion::Any => Value::Null,
            ExpectedVersion::NoStream => json!(0),
            ExpectedVersion::Exact(version) => json!(version),
        };
        let sent = request.events.iter().enumerate().map(|(index, event)| {
            let invalid = |message: String| {
                ExternalAppendError::Invalid(vec![InvalidField {
                    field: format!("events.{index}.data"),
                    code: "invalid_json",
                    message,
                }])
            };
            canonical::of_text(&event.data).map_err(|error| invalid(error.to_string()))?;
            let data = serde_json::from_slice(&event.data).map_err(|error| invalid(error.to_string()))?;
            Ok(SentEvent { data, id: json!(event.id), event_type: &event.event_type })
        });
        let sent = sent.collect::<Result<Vec<_>, ExternalAppendError>>()?;
        let digest = RequestDigest::new(self.executor.store().key(), COMMAND_NAME, request.stream.as_str());
        let digest = digest.value(&(expected, sent)).expect("each of the data has a canonical form");
        Ok(digest.finish())
    }
}

/// An event in the form that the digest covers.
#[derive(Serialize)]
struct SentEvent<'a> {
    data: &'a RawValue,
    id: Value,
    #[serde(rename = "type")]
    event_type: &'a ExternalType,
}

/// Checks data against their schemas within the budget of one request. Returns the errors with the index of the event.
fn check(known: &CompiledSchemas, unchecked: Vec<UncheckedEvent>) -> Vec<(usize, InvalidField)> {
    let mut budget = Budget::new();
    let mut wrong = Vec::new();
    for UncheckedEvent { index, data, schema } in unchecked {
        let compiled = match schema {
            TypeSchema::CompiledSchema(compiled) => Ok(compiled),
            TypeSchema::Registered(version, key) => match known.get(&key) {
                Some(compiled) => Ok(compiled),
                None => json_schema::compile(&version.schema)
                    .inspect(|compiled| known.insert(key, compiled.clone())),
            },
        };
        let data = std::str::from_utf8(&data).ok().and_then(|text| Json::parse(text).ok());
        match (compiled, data) {
            (Ok(compiled), Some(data)) => {
                for error in compiled.check(&data, &mut budget) {
                    let field =
                        if error.at.is_empty() { "data".to_owned() } else { format!("data.{}", error.at) };
                    wrong.push((index, InvalidField::of_event(index, &field, error.code, &error.message)));
                }
            }
            // The schema was registered when the limits were higher.
            (Err(error), _) => {
                let message = format!("has a schema that is beyond today's limits: {error}");
                wrong.push((index, InvalidField::of_event(index, "type", "schema_invalid", &message)));
            }
            (_, None) => {
                let message = "must be JSON whose members and numbers can be told apart";
                wrong.push((index, InvalidField::of_event(index, "data", "json_invalid", message)));
            }
        }
    }
    wrong
}

impl InvalidField {
    fn of_event(index: usize, field: &str, code: &'static str, message: &str) -> Self {
        Self { field: format!("events.{index}.{field}"), code, message: message.to_owned() }
    }
}
