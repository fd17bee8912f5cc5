//! The executor: authorises a command, loads the aggregate, decides, appends and answers. On a conflict it loads and
//! decides again.

use std::any::Any;
use std::sync::Arc;

use moka::sync::Cache;
use schemas::engine::{Commands, LogId, StreamName, TenantId, ids};
use store::{ConsistencyToken, KeyUse, Receipt, Store, StoreError};
use tokio::sync::{Mutex, Semaphore};
use uuid::Uuid;

use super::context::{CommandContext, CommandSideEffects};
use super::decider::{Decider, Facts};
use super::idempotency::claim;
use super::loading::LoadedAggregate;
use super::outcome::{CommandResult, ExecuteError, ExecutionOutcome};
use super::prepared::{DecisionOutcome, PreparedCommand, digest};

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
    ) -> Result<CommandResult<A>, ExecuteError<A::Rejection>> {
        let command = command.into();
        let name = command.command_type().name;
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
    ) -> Result<Option<CommandResult<A>>, ExecuteError<A::Rejection>> {
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
    ) -> Result<Option<CommandResult<A>>, ExecuteError<A::Rejection>> {
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
    ) -> Result<CommandResult<A>, ExecuteError<A::Rejection>> {
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
    ) -> Result<PreparedCommand<'a, A>, ExecuteError<A::Rejection>> {
        let name = command.command_type().name;
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
            facts: Facts::now(),
            metadata: context.metadata(command_id),
            claim,
            side_effects,
        })
    }

    /// Decides and appends. Other commands on the same aggregate in this process wait.
    async fn decide_and_append<A: Decider>(
        &self,
        request: &PreparedCommand<'_, A>,
    ) -> Result<DecisionOutcome<A>, ExecuteError<A::Rejection>> {
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
            let (after, append) = request.plan(&loaded, &events)?;
            match request.append(append).await {
                Ok(receipt) if receipt.duplicate => return request.duplicate(receipt),
                Ok(receipt) => {
                    // The state changes only after the append: an uncommitted state must not be visible.
                    let state = after;
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
    ) -> Result<CommandResult<A>, ExecuteError<A::Rejection>> {
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
