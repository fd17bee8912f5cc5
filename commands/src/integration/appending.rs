//! Recording events of services outside the product: authorise, recognise a repeat, check names and data, append.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;
use schemas::engine::{LogId, StreamName, TenantId, canonical, ids, sealed};
use schemas::integration::names::{ExternalCategory, ExternalType};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use store::{
    AppendError, ConsistencyToken, ExpectedVersion, KeyUse, NewEvent, Receipt, RequestDigest, StoreError,
    StreamAppend,
};
use uuid::Uuid;

use super::event_type;
use super::json_schema::{self, Compiled};
use crate::engine::context::CommandContext;
use crate::engine::executor::Executor;
use crate::engine::idempotency::claim;

/// The most events of one request.
pub const EVENTS_MAX: usize = 100;
const COMMAND: &str = "AppendEvents";
const COMPILED_MAX: u64 = 1_000;
const COMPILED_FOR: Duration = Duration::from_mins(10);

/// An event that a service wants recorded.
#[derive(Debug, Clone)]
pub struct ExternalEvent {
    /// The event's id, where the service chose one.
    pub id: Option<Uuid>,
    /// Its registered type.
    pub event_type: ExternalType,
    /// Its data as they came; they are stored so.
    pub data: Bytes,
    /// The same, read.
    pub value: Value,
}

/// What a service wants appended.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct ExternalAppend {
    pub category: ExternalCategory,
    pub stream: StreamName,
    pub expected: ExpectedVersion,
    pub events: Vec<ExternalEvent>,
}

/// What was appended, now or by the first request under the same command id.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of a receipt")]
pub struct ExternalReceipt {
    pub stream: StreamName,
    pub version: u64,
    pub position: u64,
    pub count: u32,
    pub log_id: LogId,
    pub consistency_token: String,
}

/// What is wrong with one value of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidField {
    /// The path to it, with dots.
    pub field: String,
    /// Stable, in snake case.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

/// Why events were not recorded.
#[derive(Debug, thiserror::Error)]
pub enum ExternalRefusal {
    /// The caller may not append to this category.
    #[error("the caller may not append to this category")]
    Forbidden,
    /// Names or data are not valid.
    #[error("some events are not valid")]
    Invalid(Vec<InvalidField>),
    /// An event with this id is recorded already.
    #[error("an event with the id {0} is recorded already")]
    EventIdTaken(Uuid),
    /// The store refused.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Records events of services. Cheap to clone; the clones share one bounded cache of compiled schemas.
#[derive(Clone)]
pub struct ExternalEvents {
    executor: Executor,
    /// By tenant, type and the version of the stream that holds the type's schema: an entry is never out of date.
    compiled: Cache<(TenantId, ExternalType, u64), Arc<Compiled>>,
}

impl ExternalEvents {
    /// Records through the executor's store.
    pub fn new(executor: Executor) -> Self {
        let compiled = Cache::builder().max_capacity(COMPILED_MAX).time_to_idle(COMPILED_FOR).build();
        Self { executor, compiled }
    }

    /// The receipt of the very request of the context, where it was carried out before.
    ///
    /// # Errors
    /// [`AppendError::CommandIdReused`] where another request came under the key.
    pub async fn first_receipt(
        &self,
        context: &CommandContext,
    ) -> Result<Option<ExternalReceipt>, ExternalRefusal> {
        let (Some(key), Some(digest)) = (context.command_id, context.request_digest) else { return Ok(None) };
        let claim = claim(&context.caller, key, digest)?;
        match self.executor.store().tenant(context.tenant).key_use(&claim).await? {
            KeyUse::Unused => Ok(None),
            KeyUse::Repeat(receipt) => Ok(Some(self.receipt(context.tenant, receipt))),
            KeyUse::Other => Err(AppendError::CommandIdReused.into()),
        }
    }

    /// Appends all of the events, or none.
    pub async fn append(
        &self,
        context: &CommandContext,
        request: ExternalAppend,
    ) -> Result<ExternalReceipt, ExternalRefusal> {
        let result = self.settle(context, request).await;
        let outcome = match &result {
            Ok(receipt) if receipt.duplicate => "duplicate",
            Ok(_) => "applied",
            Err(ExternalRefusal::Forbidden) => "forbidden",
            Err(ExternalRefusal::Invalid(_) | ExternalRefusal::EventIdTaken(_)) => "invalid",
            Err(ExternalRefusal::Append(AppendError::VersionConflict { .. })) => "version_conflict",
            Err(_) => "failed",
        };
        metrics::counter!("commands_total", "command" => COMMAND, "outcome" => outcome).increment(1);
        Ok(self.receipt(context.tenant, result?))
    }

    fn receipt(&self, tenant: TenantId, receipt: Receipt) -> ExternalReceipt {
        let Receipt { stream, version, log_id, position, count, .. } = receipt;
        let token = ConsistencyToken { tenant, log_id, position };
        let consistency_token = token.encode(self.executor.store().key());
        ExternalReceipt { stream, version, position, count, log_id, consistency_token }
    }

    async fn settle(
        &self,
        context: &CommandContext,
        request: ExternalAppend,
    ) -> Result<Receipt, ExternalRefusal> {
        if !context.caller.may_append(&request.category) {
            return Err(ExternalRefusal::Forbidden);
        }
        let tenant = self.executor.store().tenant(context.tenant);
        let claim = match context.command_id {
            Some(key) => Some(claim(&context.caller, key, self.digest(context, &request)?)?),
            None => None,
        };
        // A repeat gets the first answer, whatever would be answered by now.
        if let Some(claim) = &claim {
            match tenant.key_use(claim).await? {
                KeyUse::Unused => {}
                KeyUse::Repeat(receipt) => return Ok(receipt),
                KeyUse::Other => return Err(AppendError::CommandIdReused.into()),
            }
        }
        let wrong = self.wrong(context.tenant, &request).await?;
        if !wrong.is_empty() {
            return Err(ExternalRefusal::Invalid(wrong));
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
            AppendError::EventIdTaken(id) => ExternalRefusal::EventIdTaken(id),
            error => error.into(),
        })
    }

    /// Everything that is wrong with the events: their types, and their data by the types' schemas.
    async fn wrong(
        &self,
        tenant: TenantId,
        request: &ExternalAppend,
    ) -> Result<Vec<InvalidField>, StoreError> {
        let mut wrong = Vec::new();
        let mut seen = HashSet::new();
        for (index, event) in request.events.iter().enumerate() {
            let mut note = |field: &str, code, message: String| {
                wrong.push(InvalidField { field: format!("events.{index}.{field}"), code, message });
            };
            if event.id.is_some_and(|id| !seen.insert(id)) {
                note("id", "repeated", "must be another one for each event".to_owned());
            }
            if event.event_type.category() != request.category {
                note("type", "type_of_other_category", format!("must start with {}.", request.category));
                continue;
            }
            if let Some(member) = sealed::reserved(&event.value) {
                note("data", "reserved_member", format!("must not have a member {member}"));
            }
            match self.schema(tenant, &event.event_type).await? {
                None => note("type", "type_unregistered", "must be registered first".to_owned()),
                Some(schema) => {
                    for error in schema.check(&event.value) {
                        let field = if error.at.is_empty() {
                            "data".to_owned()
                        } else {
                            format!("data.{}", error.at)
                        };
                        note(&field, "schema_violated", error.message);
                    }
                }
            }
        }
        Ok(wrong)
    }

    async fn schema(
        &self,
        tenant: TenantId,
        event_type: &ExternalType,
    ) -> Result<Option<Arc<Compiled>>, StoreError> {
        let Some((family, version)) = event_type::find(&self.executor, tenant, event_type).await? else {
            return Ok(None);
        };
        let Some(known) = family.version(event_type.number()) else { return Ok(None) };
        let key = (tenant, event_type.clone(), version);
        if let Some(compiled) = self.compiled.get(&key) {
            return Ok(Some(compiled));
        }
        let schema = known.schema.clone();
        let compiled = tokio::task::spawn_blocking(move || json_schema::compile(&schema))
            .await
            .map_err(|error| StoreError::Corrupt(error.to_string()))?
            .map_err(|error| StoreError::Corrupt(format!("the schema of {event_type}: {error}")))?;
        let compiled = Arc::new(compiled);
        self.compiled.insert(key, Arc::clone(&compiled));
        Ok(Some(compiled))
    }

    /// Of the request where it is known, else of what is to be appended, with the data as they were sent.
    fn digest(
        &self,
        context: &CommandContext,
        request: &ExternalAppend,
    ) -> Result<[u8; 32], ExternalRefusal> {
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
                ExternalRefusal::Invalid(vec![InvalidField {
                    field: format!("events.{index}.data"),
                    code: "invalid_json",
                    message,
                }])
            };
            canonical::of_text(&event.data).map_err(|error| invalid(error.to_string()))?;
            let data = serde_json::from_slice(&event.data).map_err(|error| invalid(error.to_string()))?;
            Ok(SentEvent { data, id: json!(event.id), event_type: &event.event_type })
        });
        let sent = sent.collect::<Result<Vec<_>, ExternalRefusal>>()?;
        let digest = RequestDigest::new(self.executor.store().key(), COMMAND, request.stream.as_str());
        let digest = digest.value(&(expected, sent)).expect("each of the data has a canonical form");
        Ok(digest.finish())
    }
}

/// An event as its digest covers it.
#[derive(Serialize)]
struct SentEvent<'a> {
    data: &'a RawValue,
    id: Value,
    #[serde(rename = "type")]
    event_type: &'a ExternalType,
}
