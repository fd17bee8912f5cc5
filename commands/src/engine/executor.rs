//! The executor: authorises a command, loads the aggregate, decides, appends and answers. On a conflict it loads and
//! decides again.

use std::any::Any;
use std::sync::Arc;

use moka::sync::Cache;
use schemas::engine::canonical::CanonicalError;
use schemas::engine::{LogId, Metadata, StreamName, TenantId, ids};
use store::{
    AppendError, ConsistencyToken, DeploymentKey, ExpectedVersion, IdempotencyClaim, KeyUse, NewEvent,
    Receipt, RequestDigest, Store, StoreError, StreamAppend, TenantStore,
};
use tokio::sync::{Mutex, Semaphore};
use uuid::Uuid;

use super::context::{CommandContext, CommandSideEffects};
use super::decider::Decider;
use super::idempotency::claim;
use super::loading::LoadedAggregate;
use super::outcome::{CommandResult, ExecuteError, ExecutionOutcome};

/// Maximum retries after a conflict of a command without an expected version. Afterwards the caller gets the conflict.
/// Within a process the commands on one aggregate are serialised, so only another process can cause a conflict.
const CONFLICT_RETRIES_MAX: u32 = 10;

/// Maximum administration locks that a process holds. Each holds a database connection.
const AUTHORITY_LOCKS_MAX: usize = 4;

/// The cached state of one aggregate. Its mutex serialises the commands on the aggregate.
type AggregateSlot<A> = Mutex<Option<LoadedAggregate<A>>>;

/// Runs commands. Cheap to clone; the clones share one bounded cache of aggregates.
#[derive(Clone)]
pub struct Executor {
    store: Store,
    slots: Cache<(TenantId, StreamName), Cached>,
    authority_permits: Arc<Semaphore>,
}

/// A slot of the cache, with its weight.
#[derive(Clone)]
struct Cached {
    slot: Arc<dyn Any + Send + Sync>,
    weight: u32,
}

/// State bytes that count as one aggregate in the cache.
const AGGREGATE_BYTES: usize = 1024;

/// A command that is being executed.
struct PreparedCommand<'a, A: Decider> {
    context: &'a CommandContext,
    tenant: TenantStore,
    id: Uuid,
    stream: StreamName,
    command: A::Command,
    metadata: Metadata,
    claim: Option<IdempotencyClaim>,
    side_effects: CommandSideEffects,
}

/// Result of a command without an error.
enum DecisionOutcome<A> {
    Appended(Receipt, A),
    Duplicate(Receipt),
    NoEffect(LoadedAggregate<A>),
}

impl Executor {
    /// An executor that caches at most `cache_capacity` aggregates; a large one counts as several.
    pub fn new(store: Store, cache_capacity: u64) -> Self {
        let slots =
            Cache::builder().max_capacity(cache_capacity).weigher(|_, cached: &Cached| cached.weight).build();
        let authority_permits = Arc::new(Semaphore::new(AUTHORITY_LOCKS_MAX));
        Self { store, slots, authority_permits }
    }

    /// Permits for holding an administration lock.
    pub(crate) fn authority_permits(&self) -> Arc<Semaphore> {
        Arc::clone(&self.authority_permits)
    }

    /// The store that commands are appended to.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The aggregate and its version, or `None` if it does not exist.
    ///
    /// # Errors
    /// [`StoreError`] if the stream cannot be read.
    pub async fn load<A: Decider>(&self, tenant: TenantId, id: Uuid) -> Result<Option<(A, u64)>, StoreError> {
        let tenant = self.store.tenant(tenant);
        let stream = StreamName::new(A::CATEGORY, id);
        let shared = self.slot::<A>(tenant.id(), &stream);
        let mut slot = shared.lock().await;
        let mut loaded = slot.clone().unwrap_or_default();
        loaded.catch_up(&tenant, &stream, None).await?;
        if loaded.version == 0 {
            return Ok(None);
        }
        self.update_weight(tenant.id(), &stream, &shared, &loaded.state);
        *slot = Some(loaded.clone());
        Ok(Some((loaded.state, loaded.version)))
    }

    /// Executes a command on the aggregate `id`. `extras` are written with its events; they are not part of the digest
    /// that recognises a repeat.
    ///
    /// # Errors
    /// [`ExecuteError`]; after [`ExecuteError::Unavailable`] a repeat with the same command id is safe.
    pub async fn execute<A: Decider>(
        &self,
        context: &CommandContext,
        id: Uuid,
        command: impl Into<A::Command> + Send,
        side_effects: CommandSideEffects,
    ) -> Result<CommandResult<A>, ExecuteError<A::Error>> {
        let command = command.into();
        let name = A::command_name(&command);
        let result = self.execute_authorised(context, id, command, side_effects).await;
        let outcome = match &result {
            Ok(CommandResult { outcome: ExecutionOutcome::Applied, .. }) => "applied",
            Ok(CommandResult { outcome: ExecutionOutcome::Duplicate, .. }) => "duplicate",
            Err(error) => error.label(),
        };
        metrics::counter!("annals_commands_total", "command" => name, "outcome" => outcome).increment(1);
        result
    }

    /// The first answer to this command, if it was executed before under the context's command id. It executes nothing.
    /// Use it before an expensive preparation of a command, such as a password hash.
    ///
    /// # Errors
    /// [`ExecuteError::CommandIdReused`] if the command id was used for another command.
    pub async fn previous_result<A: Decider>(
        &self,
        context: &CommandContext,
        id: Uuid,
        command: impl Into<A::Command> + Send,
    ) -> Result<Option<CommandResult<A>>, ExecuteError<A::Error>> {
        let request = self.request::<A>(context, id, command.into(), CommandSideEffects::default())?;
        match request.previous_receipt().await? {
            Some(receipt) => self.build_result(&request, request.duplicate(receipt)?).await.map(Some),
            None => Ok(None),
        }
    }

    /// The first answer to the context's request, if it was executed before. It executes nothing and needs no command,
    /// so it can run before every check that could reject the request.
    ///
    /// # Errors
    /// [`ExecuteError::CommandIdReused`] if the key was used for another request.
    pub async fn previous_request_result<A: Decider>(
        &self,
        context: &CommandContext,
    ) -> Result<Option<CommandResult<A>>, ExecuteError<A::Error>> {
        let (Some(key), Some(digest)) = (context.command_id, context.request_digest) else { return Ok(None) };
        let tenant = self.store.tenant(context.tenant);
        let receipt = match tenant.key_use(&claim(&context.caller, key, digest)?).await? {
            KeyUse::Unused => return Ok(None),
            KeyUse::Repeat(receipt) => receipt,
            KeyUse::Other => return Err(ExecuteError::CommandIdReused),
        };
        let Some(id) = receipt.stream.uuid().filter(|_| receipt.stream.category() == A::CATEGORY) else {
            return Err(ExecuteError::CommandIdReused);
        };
        let mut loaded = LoadedAggregate::<A>::default();
        loaded.catch_up(&tenant, &receipt.stream, Some(receipt.version)).await?;
        Ok(Some(CommandResult {
            outcome: ExecutionOutcome::Duplicate,
            command_id: key,
            id,
            version: receipt.version,
            position: receipt.position,
            log_id: receipt.log_id,
            count: receipt.count,
            consistency_token: self.token(tenant.id(), receipt.log_id, receipt.position),
            state: loaded.state,
        }))
    }

    async fn execute_authorised<A: Decider>(
        &self,
        context: &CommandContext,
        id: Uuid,
        command: A::Command,
        side_effects: CommandSideEffects,
    ) -> Result<CommandResult<A>, ExecuteError<A::Error>> {
        let request = self.request::<A>(context, id, command, side_effects)?;
        let settled = match self.decide_and_append(&request).await {
            Err(error @ (ExecuteError::Unavailable(_) | ExecuteError::Overloaded)) => return Err(error),
            Ok(settled @ (DecisionOutcome::Appended(..) | DecisionOutcome::Duplicate(_))) => settled,
            // Nothing was appended. If this command was executed before, the first answer is returned, even if the
            // rules or the version would reject it now.
            unsettled => match request.previous_receipt().await? {
                Some(receipt) => request.duplicate(receipt)?,
                None => unsettled?,
            },
        };
        self.build_result(&request, settled).await
    }

    /// Prepares a command, unless its caller lacks the permission.
    fn request<'a, A: Decider>(
        &self,
        context: &'a CommandContext,
        id: Uuid,
        command: A::Command,
        side_effects: CommandSideEffects,
    ) -> Result<PreparedCommand<'a, A>, ExecuteError<A::Error>> {
        let name = A::command_name(&command);
        if !access::policy::permits(&context.caller, name, id) {
            return Err(ExecuteError::Forbidden);
        }
        let stream = StreamName::new(A::CATEGORY, id);
        let command_id = context.command_id.unwrap_or_else(ids::new_id);
        let claim = match context.command_id {
            Some(key) => {
                let digest = match context.request_digest {
                    Some(digest) => digest,
                    None => digest(self.store.key(), name, &stream, &command)
                        .map_err(|error| ExecuteError::Invalid(error.to_string()))?,
                };
                Some(claim(&context.caller, key, digest)?)
            }
            None => None,
        };
        Ok(PreparedCommand {
            context,
            tenant: self.store.tenant(context.tenant),
            id,
            stream,
            command,
            metadata: context.metadata(command_id),
            claim,
            side_effects,
        })
    }

    /// Decides and appends. Other commands on the same aggregate in this process wait.
    async fn decide_and_append<A: Decider>(
        &self,
        request: &PreparedCommand<'_, A>,
    ) -> Result<DecisionOutcome<A>, ExecuteError<A::Error>> {
        let shared = self.slot::<A>(request.tenant.id(), &request.stream);
        let mut slot = shared.lock().await;
        let mut retries = 0;
        loop {
            let (loaded, events) = request.decide(slot.clone(), retries == 0).await?;
            if events.is_empty() && request.claim.is_none() {
                *slot = Some(loaded.clone());
                return Ok(DecisionOutcome::NoEffect(loaded));
            }
            // A command without effect stores its receipt at the version on which it was decided.
            match request.append(loaded.version, loaded.log_id, &events).await {
                Ok(receipt) if receipt.duplicate => return request.duplicate(receipt),
                Ok(receipt) => {
                    // The state changes only after the append: an uncommitted state must not be visible.
                    let mut state = loaded.state;
                    for event in events {
                        state.apply(event);
                    }
                    let log_id = Some(receipt.log_id);
                    self.update_weight(request.tenant.id(), &request.stream, &shared, &state);
                    *slot = Some(LoadedAggregate { state: state.clone(), version: receipt.version, log_id });
                    return Ok(DecisionOutcome::Appended(receipt, state));
                }
                Err(ExecuteError::VersionConflict { actual }) => {
                    *slot = None;
                    if request.context.expected_version.is_some() || retries == CONFLICT_RETRIES_MAX {
                        return Err(ExecuteError::VersionConflict { actual });
                    }
                    retries += 1;
                    metrics::counter!("annals_command_conflicts_total").increment(1);
                }
                // The decision was made on a replaced log.
                Err(ExecuteError::Unavailable(StoreError::LogReplaced { .. }))
                    if retries < CONFLICT_RETRIES_MAX =>
                {
                    *slot = None;
                    retries += 1;
                }
                Err(error) => {
                    *slot = None;
                    return Err(error);
                }
            }
        }
    }

    async fn build_result<A: Decider>(
        &self,
        request: &PreparedCommand<'_, A>,
        settled: DecisionOutcome<A>,
    ) -> Result<CommandResult<A>, ExecuteError<A::Error>> {
        let (outcome, version, log_id, position, count, state) = match settled {
            DecisionOutcome::Appended(receipt, state) => (
                ExecutionOutcome::Applied,
                receipt.version,
                receipt.log_id,
                receipt.position,
                receipt.count,
                state,
            ),
            DecisionOutcome::Duplicate(receipt) => {
                let mut loaded = LoadedAggregate::<A>::default();
                loaded.catch_up(&request.tenant, &request.stream, Some(receipt.version)).await?;
                let Receipt { version, log_id, position, count, .. } = receipt;
                (ExecutionOutcome::Duplicate, version, log_id, position, count, loaded.state)
            }
            DecisionOutcome::NoEffect(loaded) => {
                let head = request.tenant.head().await?;
                (ExecutionOutcome::Applied, loaded.version, head.log_id, head.position, 0, loaded.state)
            }
        };
        Ok(CommandResult {
            outcome,
            command_id: request.metadata.command_id,
            id: request.id,
            version,
            position,
            log_id,
            count,
            consistency_token: self.token(request.tenant.id(), log_id, position),
            state,
        })
    }

    fn token(&self, tenant: TenantId, log_id: LogId, position: u64) -> String {
        ConsistencyToken { tenant, log_id, position }.encode(self.store.key())
    }

    fn slot<A: Decider>(&self, tenant: TenantId, stream: &StreamName) -> Arc<AggregateSlot<A>> {
        let new = || Cached { slot: Arc::new(AggregateSlot::<A>::default()), weight: 1 };
        let cached = self.slots.get_with((tenant, stream.clone()), new);
        // A category belongs to one aggregate type; otherwise the command would run without the cache.
        cached.slot.downcast::<AggregateSlot<A>>().unwrap_or_default()
    }

    /// Sets the weight of a slot to the memory of its state.
    fn update_weight<A: Decider>(
        &self,
        tenant: TenantId,
        stream: &StreamName,
        slot: &Arc<AggregateSlot<A>>,
        state: &A,
    ) {
        let bytes = state.bytes();
        if bytes == 0 {
            return;
        }
        let weight = u32::try_from(1 + bytes / AGGREGATE_BYTES).unwrap_or(u32::MAX);
        let key = (tenant, stream.clone());
        if self.slots.get(&key).is_none_or(|cached| cached.weight != weight) {
            self.slots.insert(key, Cached { slot: Arc::<AggregateSlot<A>>::clone(slot), weight });
        }
    }
}

impl<A: Decider> PreparedCommand<'_, A> {
    /// Decides first on the cached state. That state may lag, which only an append would detect.
    /// So if the result is anything but events, it decides again on the state from the log.
    /// A creating command is first decided on an empty state, and again if the stream exists.
    async fn decide(
        &self,
        cached: Option<LoadedAggregate<A>>,
        first: bool,
    ) -> Result<(LoadedAggregate<A>, Vec<A::Event>), ExecuteError<A::Error>> {
        let creates = A::creates(&self.command);
        if cached.is_some() || (creates && first) {
            let loaded = cached.clone().unwrap_or_default();
            if let Ok(events) = self.decide_on(&loaded)
                && !events.is_empty()
            {
                return Ok((loaded, events));
            }
        }
        let mut loaded = cached.unwrap_or_default();
        loaded.catch_up(&self.tenant, &self.stream, None).await?;
        let events = self.decide_on(&loaded)?;
        Ok((loaded, events))
    }

    fn decide_on(&self, loaded: &LoadedAggregate<A>) -> Result<Vec<A::Event>, ExecuteError<A::Error>> {
        if !loaded.state.exists() && !A::creates(&self.command) {
            return Err(ExecuteError::NotFound);
        }
        if self.context.expected_version.is_some_and(|expected| expected != loaded.version) {
            return Err(ExecuteError::VersionConflict { actual: loaded.version });
        }
        loaded.state.decide(self.command.clone()).map_err(ExecuteError::Rejected)
    }

    async fn append(
        &self,
        version: u64,
        log: Option<LogId>,
        events: &[A::Event],
    ) -> Result<Receipt, ExecuteError<A::Error>> {
        let encoded: Vec<NewEvent> = events
            .iter()
            .map(NewEvent::encode)
            .collect::<Result<_, _>>()
            .map_err(|error| ExecuteError::internal("encoding an event", error))?;
        let expected = if version == 0 { ExpectedVersion::NoStream } else { ExpectedVersion::Exact(version) };
        if let Some(claim) = self.claim.filter(|_| events.is_empty()) {
            let append =
                StreamAppend::without_effect(self.stream.clone(), expected, claim, self.metadata.clone());
            return Ok(self.tenant.append(StreamAppend { log, ..append }).await?);
        }
        let append = StreamAppend {
            log,
            claim: self.claim,
            reservations: events.iter().flat_map(A::reservations).collect(),
            releases: events.iter().flat_map(A::releases).collect(),
            secrets: self.side_effects.secrets.clone(),
            digest_releases: self.side_effects.digest_releases.clone(),
            new_tenant: self.side_effects.new_tenant.clone(),
            tenant_status: self.side_effects.tenant_status,
            ..StreamAppend::new(self.stream.clone(), expected, encoded, self.metadata.clone())
        };
        self.tenant.append(append).await.map_err(AppendError::into)
    }

    /// The receipt of this command, if it was executed before.
    async fn previous_receipt(&self) -> Result<Option<Receipt>, ExecuteError<A::Error>> {
        let Some(claim) = &self.claim else { return Ok(None) };
        match self.tenant.key_use(claim).await? {
            KeyUse::Unused => Ok(None),
            KeyUse::Repeat(receipt) => Ok(Some(receipt)),
            KeyUse::Other => Err(ExecuteError::CommandIdReused),
        }
    }

    /// The first answer again. A receipt of another aggregate is an error.
    fn duplicate(&self, receipt: Receipt) -> Result<DecisionOutcome<A>, ExecuteError<A::Error>> {
        if receipt.stream == self.stream {
            Ok(DecisionOutcome::Duplicate(receipt))
        } else {
            Err(ExecuteError::CommandIdReused)
        }
    }
}

/// The keyed digest over name, target and command. It distinguishes a repeat from another command under the same key.
fn digest(
    key: &DeploymentKey,
    name: &str,
    stream: &StreamName,
    command: &impl serde::Serialize,
) -> Result<[u8; 32], CanonicalError> {
    Ok(RequestDigest::new(key, name, stream.as_str()).value(command)?.finish())
}

#[cfg(test)]
mod tests {
    use schemas::crm::customer::{RegisterCustomer, SuspendCustomer};
    use schemas::engine::{Email, Name, Reason};

    use super::*;

    fn register(name: &str) -> RegisterCustomer {
        RegisterCustomer {
            user_id: None,
            name: Name::parse(name).expect("a valid name"),
            email: Email::parse("ada@example.com").expect("a valid address"),
            company: None,
            notes: None,
        }
    }

    fn stream(id: u128) -> StreamName {
        StreamName::new("crm.customer", Uuid::from_u128(id))
    }

    #[test]
    fn a_digest_tells_key_name_target_and_content_apart() {
        let key = DeploymentKey::generate();
        let of = |key: &DeploymentKey, name: &str, id: u128, command: &RegisterCustomer| {
            digest(key, name, &stream(id), command).expect("a command serialises")
        };
        let first = of(&key, "RegisterCustomer", 1, &register("Ada"));
        assert_eq!(first, of(&key, "RegisterCustomer", 1, &register("Ada")));
        assert_ne!(first, of(&key, "RegisterCustomer", 1, &register("Bo")));
        assert_ne!(first, of(&key, "RegisterCustomer", 2, &register("Ada")));
        assert_ne!(first, of(&key, "RenameCustomer", 1, &register("Ada")));
        assert_ne!(first, of(&DeploymentKey::generate(), "RegisterCustomer", 1, &register("Ada")));
    }

    #[test]
    fn an_absent_field_does_not_count_in_a_digest() {
        #[derive(serde::Serialize)]
        struct Suspend {
            reason: Option<Reason>,
            introduced_later: Option<u32>,
        }
        let key = DeploymentKey::generate();
        let of =
            |command: &Suspend| digest(&key, "SuspendCustomer", &stream(1), command).expect("serialises");
        let reason = || Some(Reason::parse("arrears").expect("a valid reason"));
        let today = SuspendCustomer { reason: reason() };
        let today = digest(&key, "SuspendCustomer", &stream(1), &today).expect("serialises");
        assert_eq!(of(&Suspend { reason: reason(), introduced_later: None }), today);
        assert_ne!(of(&Suspend { reason: reason(), introduced_later: Some(1) }), today);
        assert_ne!(of(&Suspend { reason: None, introduced_later: None }), today);
    }
}
