//! The executor: authorises a command, loads the aggregate, decides, appends and answers. On a conflict it loads and
//! decides again.

use std::any::Any;
use std::mem::size_of;
use std::sync::Arc;

use fairness::FairCache;
use schemas::engine::{Commands, LogId, StreamName, TenantId, ids};
use store::{ConsistencyToken, KeyUse, Store, StoreError};
use tokio::sync::{Mutex, Semaphore};
use uuid::Uuid;

use super::context::{CommandContext, CommandSideEffects};
use super::decider::{Decider, Facts};
use super::idempotency::claim;
use super::loading::LoadedAggregate;
use super::outcome::{CommandResult, ExecuteError, ExecutionOutcome, RecordedNow};
use super::prepared::{DecisionOutcome, PreparedCommand, digest};
use crate::any_command::Dispatched;

/// Maximum retries after a conflict of a command without an expected version. Afterwards the caller gets the conflict.
/// Within a process the commands on one aggregate are serialised, so only another process can cause a conflict.
const CONFLICT_RETRIES_MAX: u32 = 10;

/// Maximum administration locks that a process holds. Each holds a database connection.
const AUTHORITY_LOCKS_MAX: usize = 4;

/// The cached state of one aggregate. Its mutex serialises the commands on the aggregate.
type AggregateSlot<A> = Mutex<Option<LoadedAggregate<A>>>;

/// Runs commands. Cheap to clone; the clones share one cache of aggregates.
#[derive(Clone)]
pub struct Executor {
    store: Store,
    /// The slots, shared fairly between tenants. Their type follows from the category of the stream.
    slots: Arc<FairCache<TenantId, StreamName, Arc<dyn Any + Send + Sync>>>,
    authority_permits: Arc<Semaphore>,
}

impl Executor {
    /// An executor that caches at most `cache_bytes_max` bytes of aggregates.
    pub fn new(store: Store, cache_bytes_max: usize) -> Self {
        let authority_permits = Arc::new(Semaphore::new(AUTHORITY_LOCKS_MAX));
        Self { store, slots: Arc::new(FairCache::new(cache_bytes_max)), authority_permits }
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
        loaded.catch_up(&tenant, &stream).await?;
        if loaded.version == 0 {
            return Ok(None);
        }
        self.update_weight(tenant.id(), &stream, &shared, &loaded);
        *slot = Some(loaded.clone());
        Ok(Some((loaded.state, loaded.version)))
    }

    /// Executes a command on the aggregate `id`. `side_effects` are written with its events; they are not part of the
    /// digest that recognises a repeat.
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
        let executing = async |command| {
            let request = self.request::<A>(context, id, command, side_effects)?;
            let settled = self.settle(&request).await?;
            self.build_result(&request, settled).await
        };
        counted::<A, _>(command.into(), executing, |result| result.outcome).await
    }

    /// Executes a command like [`execute`](Self::execute), without the state after it.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub(crate) async fn dispatch<A: Decider>(
        &self,
        context: &CommandContext,
        id: Uuid,
        command: A::Command,
    ) -> Result<Dispatched, ExecuteError<A::Rejection>> {
        let executing = async |command| {
            let request = self.request::<A>(context, id, command, CommandSideEffects::default())?;
            let settled = self.settle(&request).await?;
            self.dispatched(&request, settled).await
        };
        counted::<A, _>(command, executing, |dispatched| dispatched.outcome).await
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
        let loaded = LoadedAggregate::<A>::at(&tenant, &receipt.stream, receipt.version).await?;
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

    /// Decides and appends, or finds the first answer.
    async fn settle<A: Decider>(
        &self,
        request: &PreparedCommand<'_, A>,
    ) -> Result<DecisionOutcome<A>, ExecuteError<A::Rejection>> {
        match self.decide_and_append(request).await {
            Err(error @ (ExecuteError::Unavailable(_) | ExecuteError::Overloaded)) => Err(error),
            Ok(settled @ (DecisionOutcome::Appended(..) | DecisionOutcome::Duplicate(_))) => Ok(settled),
            // Nothing was appended. If this command was executed before, the first answer is returned, even if the
            // rules or the version would reject it now.
            unsettled => match request.previous_receipt().await? {
                Some(receipt) => request.duplicate(receipt),
                None => unsettled,
            },
        }
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
            let (mut after, append) = request.plan(&loaded, &events)?;
            let recorded = Arc::from(append.events.as_slice());
            match request.append(append).await {
                Ok(receipt) if receipt.duplicate => return request.duplicate(receipt),
                Ok(receipt) => {
                    // The state changes only after the append: an uncommitted state must not be visible.
                    let recorded = receipt.recorded_at.map(|at| RecordedNow { at, events: recorded });
                    after.recorded(&receipt);
                    after.keep_snapshot(&request.tenant, &request.stream);
                    self.update_weight(request.tenant.id(), &request.stream, &shared, &after);
                    *slot = Some(after.clone());
                    return Ok(DecisionOutcome::Appended(receipt, after.state, recorded));
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
        let (state, count) = match &settled {
            DecisionOutcome::Appended(receipt, state, _) => (state.clone(), receipt.count),
            DecisionOutcome::Duplicate(receipt) => {
                let version = receipt.version;
                let loaded = LoadedAggregate::<A>::at(&request.tenant, &request.stream, version).await?;
                (loaded.state, receipt.count)
            }
            DecisionOutcome::NoEffect(loaded) => (loaded.state.clone(), 0),
        };
        let Dispatched { outcome, command_id, id, version, position, log_id, consistency_token, .. } =
            self.dispatched(request, settled).await?;
        Ok(CommandResult {
            outcome,
            command_id,
            id,
            version,
            position,
            log_id,
            count,
            consistency_token,
            state,
        })
    }

    async fn dispatched<A: Decider>(
        &self,
        request: &PreparedCommand<'_, A>,
        settled: DecisionOutcome<A>,
    ) -> Result<Dispatched, ExecuteError<A::Rejection>> {
        let (outcome, version, log_id, position, recorded) = match settled {
            DecisionOutcome::Appended(receipt, _, recorded) => {
                (ExecutionOutcome::Applied, receipt.version, receipt.log_id, receipt.position, recorded)
            }
            DecisionOutcome::Duplicate(receipt) => {
                (ExecutionOutcome::Duplicate, receipt.version, receipt.log_id, receipt.position, None)
            }
            DecisionOutcome::NoEffect(loaded) => {
                let head = request.tenant.head().await?;
                (ExecutionOutcome::Applied, loaded.version, head.log_id, head.position, None)
            }
        };
        Ok(Dispatched {
            outcome,
            command_id: request.metadata.command_id,
            id: request.id,
            version,
            position,
            log_id,
            consistency_token: self.token(request.tenant.id(), log_id, position),
            recorded,
        })
    }

    fn token(&self, tenant: TenantId, log_id: LogId, position: u64) -> String {
        ConsistencyToken { tenant, log_id, position }.encode(self.store.key())
    }

    fn slot<A: Decider>(&self, tenant: TenantId, stream: &StreamName) -> Arc<AggregateSlot<A>> {
        let new = || -> Arc<dyn Any + Send + Sync> { Arc::new(AggregateSlot::<A>::default()) };
        let cached =
            self.slots.get_or_insert_with(tenant, stream.clone(), size_of::<AggregateSlot<A>>(), new);
        // A category belongs to one aggregate type; otherwise the command would run without the cache.
        cached.downcast::<AggregateSlot<A>>().unwrap_or_default()
    }

    /// Sets the weight of a slot to the memory of its state.
    fn update_weight<A: Decider>(
        &self,
        tenant: TenantId,
        stream: &StreamName,
        slot: &Arc<AggregateSlot<A>>,
        loaded: &LoadedAggregate<A>,
    ) {
        let bytes = size_of::<AggregateSlot<A>>() + loaded.bytes();
        self.slots.insert(tenant, stream.clone(), Arc::<AggregateSlot<A>>::clone(slot), bytes);
    }
}

/// Executes a command, and counts it by its outcome.
async fn counted<A: Decider, T>(
    command: A::Command,
    executing: impl AsyncFnOnce(A::Command) -> Result<T, ExecuteError<A::Rejection>>,
    outcome: impl Fn(&T) -> ExecutionOutcome,
) -> Result<T, ExecuteError<A::Rejection>> {
    let name = command.command_type().name;
    let result = executing(command).await;
    let label = match result.as_ref().map(outcome) {
        Ok(ExecutionOutcome::Applied) => "applied",
        Ok(ExecutionOutcome::Duplicate) => "duplicate",
        Err(error) => error.label(),
    };
    metrics::counter!("annals_commands_total", "command" => name, "outcome" => label).increment(1);
    result
}
