//! Creates and removes the consumers of integrators as the registry says, and stores their acknowledged positions
//! there.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, Info, ReplayPolicy};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::Stream;
use futures::{FutureExt, StreamExt};
use schemas::engine::{TenantId, TenantSlug};
use store::{Store, TenantAssignment};
use uuid::Uuid;

use super::registry::{self, AckedPosition, IntegratorCredential, ObservedPosition};
use super::stream_position::{StreamState, next_acked, position_at};
use super::stream_search::start_after;
use crate::connection::SUBJECT_ROOT;
use crate::message::MessageKey;
use crate::relay::page::PAGE_SIZE_MAX;
use crate::relay::progress::RelayProgress;
use crate::relay::stored_message::api_error;
use crate::relay::stream_reader::handle;
use crate::{Nats, NatsError};

/// Metadata key of a consumer: it marks a consumer of an integrator, and holds the instance number.
const INSTANCE_KEY: &str = "annals-instance";
/// A message that is not acknowledged within this time is delivered again.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Limits of one client: messages without acknowledgement, messages of one request, waiting requests.
const ACK_PENDING_MAX: i64 = 20_000;
const BATCH_SIZE_MAX: i64 = 5_000;
const WAITING_REQUESTS_MAX: i64 = 128;
/// Maximum consumers that are changed at once.
const CONCURRENCY_MAX: usize = 4;

pub(super) struct ConsumerReconciler {
    store: Store,
    nats: Nats,
    key: MessageKey,
    assignment: TenantAssignment,
    /// The acknowledged stream positions that were already looked up, by credential.
    looked_up: HashMap<Uuid, (u32, u64)>,
}

impl ConsumerReconciler {
    pub(super) fn new(store: Store, nats: Nats, assignment: TenantAssignment) -> Self {
        Self { key: MessageKey::of(store.key()), store, nats, assignment, looked_up: HashMap::new() }
    }

    /// Applies the registry to all consumers (`all`), or to those of changed credentials.
    pub(super) async fn reconcile(&mut self, all: bool) -> Result<(), NatsError> {
        let stream = handle(&self.nats).await?;
        // Consumers are listed before the registry is read, so every listed consumer was registered before.
        let mut listed = if all { list(&stream).await? } else { HashMap::new() };
        let credentials = registry::credentials(&self.store, all).await?;
        if credentials.is_empty() && listed.is_empty() {
            return Ok(());
        }
        let stream_state = StreamState::read(&self.store, &self.nats).await?;
        let mut work = Vec::new();
        for (slug, credential) in &credentials {
            let seen = match listed.remove(&credential.consumer) {
                None if !all => info(&stream, &credential.consumer).await?,
                seen => seen,
            };
            if self.assignment.owns(credential.tenant) {
                work.push((slug, credential, seen));
            }
        }
        let (nats, store, stream_state) = (&self.nats, &self.store, &stream_state);
        let mut reconciling = Vec::new();
        for (slug, credential, seen) in &work {
            let reconciling_one =
                reconcile_one(store, nats, &stream, stream_state, slug, credential, seen.as_ref());
            reconciling.push(reconciling_one.boxed());
        }
        // A consumer that fails does not delay the others.
        let results: Vec<_> =
            futures::stream::iter(reconciling).buffer_unordered(CONCURRENCY_MAX).collect().await;
        if all {
            let ours = listed.into_iter().filter(|(_, info)| instance(info).is_some());
            for (orphan, _) in ours {
                tracing::warn!(consumer = orphan, "a consumer without a credential is removed");
                delete(&stream, &orphan).await?;
            }
            let seen =
                work.iter().filter_map(|(slug, credential, seen)| Some((*slug, *credential, seen.as_ref()?)));
            let found =
                find_acked_positions(nats, &self.key, stream_state, &mut self.looked_up, seen).await?;
            registry::record_acked_positions(&self.store, &found).await?;
        }
        results.into_iter().collect()
    }
}

/// Makes a consumer as the registry says and records that in the registry, if it is possible now.
async fn reconcile_one(
    store: &Store,
    nats: &Nats,
    stream: &Stream<()>,
    stream_state: &StreamState,
    slug: &TenantSlug,
    credential: &IntegratorCredential,
    seen: Option<&Info>,
) -> Result<(), NatsError> {
    let is_applied = ensure_consumer(store, nats, stream, stream_state, slug, credential, seen).await?;
    if is_applied && !credential.applied {
        registry::set_consumer_applied(store, credential).await?;
    }
    Ok(())
}

/// Creates or updates the consumer. Returns whether it is now as the registry says.
async fn ensure_consumer(
    store: &Store,
    nats: &Nats,
    stream: &Stream<()>,
    stream_state: &StreamState,
    slug: &TenantSlug,
    credential: &IntegratorCredential,
    seen: Option<&Info>,
) -> Result<bool, NatsError> {
    if credential.revoked_at.is_some() {
        delete(stream, &credential.consumer).await?;
        return Ok(true);
    }
    if seen.is_some_and(|info| instance(info) == Some(credential.instance)) {
        return Ok(true);
    }
    let Some(start) = start(store, nats, stream_state, credential).await? else { return Ok(false) };
    if seen.is_some() {
        delete(stream, &credential.consumer).await?;
    }
    stream
        .create_consumer(config(slug, credential, start.policy))
        .await
        .map_err(|error| api_error(&error))?;
    let (tenant, id, instance) = (credential.tenant, credential.id, credential.instance);
    registry::record_acked_positions(
        store,
        &[ObservedPosition { tenant, credential: id, instance, acked: start.acked }],
    )
    .await?;
    tracing::info!(consumer = credential.consumer, after = start.acked.position, "a consumer was made");
    Ok(true)
}

struct ConsumerStart {
    policy: DeliverPolicy,
    acked: AckedPosition,
}

/// Where the consumer starts: after the acknowledged position. `None` while the relay has not published up to there.
async fn start(
    store: &Store,
    nats: &Nats,
    stream_state: &StreamState,
    credential: &IntegratorCredential,
) -> Result<Option<ConsumerStart>, NatsError> {
    let progress = stream_state.progress(credential.tenant);
    let log_id = progress.map_or(credential.acked.log_id, |progress| progress.log_id);
    let position = if log_id == credential.acked.log_id { credential.acked.position } else { 0 };
    let stream_epoch = progress.map(|progress| progress.stream_epoch);
    // A republish puts lower positions after higher ones, unless the whole stream was republished.
    // Then an acknowledged stream position has no meaning until every message that is now in the stream is
    // acknowledged.
    let republished = progress.is_some_and(|progress| !progress.is_single_epoch);
    let out_of_order_below = if republished { stream_state.last_sequence() } else { 0 };
    let acked = AckedPosition { log_id, position, stream_epoch, out_of_order_below };
    if position == 0 {
        return Ok(Some(ConsumerStart { policy: DeliverPolicy::All, acked }));
    }
    let Some(progress) = progress.filter(|relay| stream_state.is_settled(relay) && relay.acked >= position)
    else {
        return Ok(None);
    };
    let start_sequence = start_after(store, nats, progress, position).await?;
    Ok(Some(ConsumerStart { policy: DeliverPolicy::ByStartSequence { start_sequence }, acked }))
}

fn config(slug: &TenantSlug, credential: &IntegratorCredential, deliver_policy: DeliverPolicy) -> Config {
    let filters = if credential.types.is_empty() {
        vec![format!("{SUBJECT_ROOT}.{slug}.>")]
    } else {
        credential.types.iter().map(|pattern| format!("{SUBJECT_ROOT}.{slug}.{pattern}")).collect()
    };
    Config {
        durable_name: Some(credential.consumer.clone()),
        description: Some("An integrator's; kept by annals".to_owned()),
        deliver_policy,
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        replay_policy: ReplayPolicy::Instant,
        filter_subjects: filters,
        max_ack_pending: ACK_PENDING_MAX,
        max_batch: BATCH_SIZE_MAX,
        max_waiting: WAITING_REQUESTS_MAX,
        metadata: HashMap::from([(INSTANCE_KEY.to_owned(), credential.instance.to_string())]),
        ..Config::default()
    }
}

/// The instance number of a consumer; `None` for consumers that are not of integrators.
fn instance(info: &Info) -> Option<u32> {
    info.config.metadata.get(INSTANCE_KEY)?.parse().ok()
}

async fn list(stream: &Stream<()>) -> Result<HashMap<String, Info>, NatsError> {
    let mut listed = HashMap::new();
    let mut consumers = stream.consumers();
    while let Some(info) = consumers.next().await {
        let info = info.map_err(|error| api_error(&error))?;
        listed.insert(info.name.clone(), info);
    }
    Ok(listed)
}

async fn info(stream: &Stream<()>, consumer: &str) -> Result<Option<Info>, NatsError> {
    match stream.consumer_info(consumer).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(None),
        Err(error) => Err(api_error(&error)),
    }
}

async fn delete(stream: &Stream<()>, consumer: &str) -> Result<(), NatsError> {
    match info(stream, consumer).await? {
        Some(_) => stream.delete_consumer(consumer).await.map(drop).map_err(|error| api_error(&error)),
        None => Ok(()),
    }
}

/// The log positions that the consumers have acknowledged; unchanged ones are omitted.
async fn find_acked_positions(
    nats: &Nats,
    key: &MessageKey,
    stream_state: &StreamState,
    looked_up: &mut HashMap<Uuid, (u32, u64)>,
    seen: impl Iterator<Item = (&TenantSlug, &IntegratorCredential, &Info)>,
) -> Result<Vec<ObservedPosition>, NatsError> {
    let mut found = Vec::new();
    for (slug, credential, info) in seen {
        let Some(progress) = stream_state.progress(credential.tenant) else { continue };
        let floor = info.ack_floor.stream_sequence;
        let as_before = looked_up.get(&credential.id) == Some(&(credential.instance, floor));
        let republished = credential.acked.stream_epoch != Some(progress.stream_epoch);
        if instance(info) != Some(credential.instance) || floor == 0 || (as_before && !republished) {
            continue;
        }
        let position = position_at(nats, key, slug, progress, floor).await?;
        let in_order = position.is_none_or(|position| StreamState::is_in_order(progress, floor, position));
        // Out of order, a lower position may come later, but it is lower by at most one page.
        let position = position
            .map(|position| if in_order { position } else { position.saturating_sub(PAGE_SIZE_MAX as u64) });
        let settled = stream_state.is_settled(progress).then_some(stream_state.last_sequence());
        let acked = next_acked(credential.acked, progress, settled, floor, position);
        if let Some(acked) = acked {
            let (tenant, instance) = (credential.tenant, credential.instance);
            found.push(ObservedPosition { tenant, credential: credential.id, instance, acked });
        }
        let same = acked.is_none_or(|acked| acked.stream_epoch == credential.acked.stream_epoch);
        if same && in_order && settled.is_some() {
            looked_up.insert(credential.id, (credential.instance, floor));
        }
    }
    Ok(found)
}

impl StreamState {
    fn progress(&self, tenant: TenantId) -> Option<&RelayProgress> {
        self.tenants().get(&tenant)
    }
}
