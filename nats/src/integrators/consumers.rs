//! The consumers of integrators: made and removed as the registry says, and what they have acknowledged noted there.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, Info, ReplayPolicy};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::Stream;
use futures::{FutureExt, StreamExt};
use schemas::engine::{TenantId, TenantSlug};
use store::{AckedPlace, FoundPlace, IntegratorCredential, RelayProgress, Share, Store};
use uuid::Uuid;

use super::place::{Standing, next_place, place_at};
use super::search::start_behind;
use crate::message::{MessageKey, SUBJECT_ROOT};
use crate::relay::PAGE;
use crate::relay::copy::{api, handle};
use crate::{Nats, NatsError};

/// Says which instance of a credential's consumer it is, and that it is one.
const INSTANCE: &str = "annals-instance";
/// A message that was not acknowledged by then is delivered again.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Bounds of one client: messages that wait for its acknowledgement, messages of one request, requests that wait.
const MAX_ACK_PENDING: i64 = 20_000;
const MAX_BATCH: i64 = 5_000;
const MAX_WAITING: i64 = 128;
/// Consumers worked on at a time.
const AT_ONCE: usize = 4;

pub(super) struct Consumers {
    store: Store,
    nats: Nats,
    key: MessageKey,
    share: Share,
    /// The acknowledged places that were looked up already, by credential.
    looked_up: HashMap<Uuid, (u32, u64)>,
}

impl Consumers {
    pub(super) fn new(store: Store, nats: Nats, share: Share) -> Self {
        Self { key: MessageKey::of(store.key()), store, nats, share, looked_up: HashMap::new() }
    }

    /// Brings consumers in line with the registry: all of them, or those of changed credentials.
    pub(super) async fn keep(&mut self, all: bool) -> Result<(), NatsError> {
        let stream = handle(&self.nats).await?;
        // Listed before the registry is read: what is listed was registered before.
        let mut listed = if all { list(&stream).await? } else { HashMap::new() };
        let credentials = self.store.integrator_credentials(all).await?;
        if credentials.is_empty() && listed.is_empty() {
            return Ok(());
        }
        let standing = Standing::read(&self.store, &self.nats).await?;
        let mut work = Vec::new();
        for (slug, credential) in &credentials {
            let seen = match listed.remove(&credential.consumer) {
                None if !all => info(&stream, &credential.consumer).await?,
                seen => seen,
            };
            if self.share.owns(credential.tenant) {
                work.push((slug, credential, seen));
            }
        }
        let (nats, store, standing) = (&self.nats, &self.store, &standing);
        let mut keeping = Vec::new();
        for (slug, credential, seen) in &work {
            let keeping_one = keep_one(store, nats, &stream, standing, slug, credential, seen.as_ref());
            keeping.push(keeping_one.boxed());
        }
        // One that fails holds up no other.
        let results: Vec<_> = futures::stream::iter(keeping).buffer_unordered(AT_ONCE).collect().await;
        if all {
            let ours = listed.into_iter().filter(|(_, info)| instance(info).is_some());
            for (orphan, _) in ours {
                tracing::warn!(consumer = orphan, "a consumer without a credential is removed");
                delete(&stream, &orphan).await?;
            }
            let seen =
                work.iter().filter_map(|(slug, credential, seen)| Some((*slug, *credential, seen.as_ref()?)));
            let found = find_places(nats, &self.key, standing, &mut self.looked_up, seen).await?;
            self.store.move_integrators(&found).await?;
        }
        results.into_iter().collect()
    }
}

/// Makes a consumer what the registry says and notes it there, where that is possible now.
async fn keep_one(
    store: &Store,
    nats: &Nats,
    stream: &Stream<()>,
    standing: &Standing,
    slug: &TenantSlug,
    credential: &IntegratorCredential,
    seen: Option<&Info>,
) -> Result<(), NatsError> {
    let fits = fit(store, nats, stream, standing, slug, credential, seen).await?;
    if fits && !credential.applied {
        store.consumer_applied(credential).await?;
    }
    Ok(())
}

/// Whether the consumer is as it should be, now or by what is done here.
async fn fit(
    store: &Store,
    nats: &Nats,
    stream: &Stream<()>,
    standing: &Standing,
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
    let Some(start) = start(store, nats, standing, credential).await? else { return Ok(false) };
    if seen.is_some() {
        delete(stream, &credential.consumer).await?;
    }
    stream.create_consumer(config(slug, credential, start.policy)).await.map_err(|error| api(&error))?;
    let (tenant, id, instance) = (credential.tenant, credential.id, credential.instance);
    store.move_integrators(&[FoundPlace { tenant, credential: id, instance, acked: start.acked }]).await?;
    tracing::info!(consumer = credential.consumer, after = start.acked.position, "a consumer was made");
    Ok(true)
}

struct Start {
    policy: DeliverPolicy,
    acked: AckedPlace,
}

/// Where the consumer starts: behind what is acknowledged. `None` while the stream is still being filled up to there.
async fn start(
    store: &Store,
    nats: &Nats,
    standing: &Standing,
    credential: &IntegratorCredential,
) -> Result<Option<Start>, NatsError> {
    let progress = standing.progress(credential.tenant);
    let log_id = progress.map_or(credential.acked.log_id, |progress| progress.log_id);
    let position = if log_id == credential.acked.log_id { credential.acked.position } else { 0 };
    let generation = progress.map(|progress| progress.generation);
    // Refills put lower positions behind higher ones, unless it was the whole stream that was filled: until all that is
    // there now is acknowledged, a place tells nothing.
    let refilled = progress.is_some_and(|progress| !progress.one_filling);
    let hold_sequence = if refilled { standing.last_sequence() } else { 0 };
    let acked = AckedPlace { log_id, position, generation, hold_sequence };
    if position == 0 {
        return Ok(Some(Start { policy: DeliverPolicy::All, acked }));
    }
    let Some(progress) = progress.filter(|relay| standing.is_settled(relay) && relay.acked >= position)
    else {
        return Ok(None);
    };
    let start_sequence = start_behind(store, nats, progress, position).await?;
    Ok(Some(Start { policy: DeliverPolicy::ByStartSequence { start_sequence }, acked }))
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
        max_ack_pending: MAX_ACK_PENDING,
        max_batch: MAX_BATCH,
        max_waiting: MAX_WAITING,
        metadata: HashMap::from([(INSTANCE.to_owned(), credential.instance.to_string())]),
        ..Config::default()
    }
}

/// The instance that a consumer says it is; `None` for consumers of other kinds.
fn instance(info: &Info) -> Option<u32> {
    info.config.metadata.get(INSTANCE)?.parse().ok()
}

async fn list(stream: &Stream<()>) -> Result<HashMap<String, Info>, NatsError> {
    let mut listed = HashMap::new();
    let mut consumers = stream.consumers();
    while let Some(info) = consumers.next().await {
        let info = info.map_err(|error| api(&error))?;
        listed.insert(info.name.clone(), info);
    }
    Ok(listed)
}

async fn info(stream: &Stream<()>, consumer: &str) -> Result<Option<Info>, NatsError> {
    match stream.consumer_info(consumer).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(None),
        Err(error) => Err(api(&error)),
    }
}

async fn delete(stream: &Stream<()>, consumer: &str) -> Result<(), NatsError> {
    match info(stream, consumer).await? {
        Some(_) => stream.delete_consumer(consumer).await.map(drop).map_err(|error| api(&error)),
        None => Ok(()),
    }
}

/// What the consumers' acknowledgements come to, as positions; what has not changed is left out.
async fn find_places(
    nats: &Nats,
    key: &MessageKey,
    standing: &Standing,
    looked_up: &mut HashMap<Uuid, (u32, u64)>,
    seen: impl Iterator<Item = (&TenantSlug, &IntegratorCredential, &Info)>,
) -> Result<Vec<FoundPlace>, NatsError> {
    let mut found = Vec::new();
    for (slug, credential, info) in seen {
        let Some(progress) = standing.progress(credential.tenant) else { continue };
        let floor = info.ack_floor.stream_sequence;
        let as_before = looked_up.get(&credential.id) == Some(&(credential.instance, floor));
        let refilled = credential.acked.generation != Some(progress.generation);
        if instance(info) != Some(credential.instance) || floor == 0 || (as_before && !refilled) {
            continue;
        }
        let position = place_at(nats, key, slug, progress, floor).await?;
        let orderly = position.is_none_or(|position| Standing::is_orderly(progress, floor, position));
        // In disorder a lower position may come later, but none that is lower by more than a page.
        let position =
            position.map(|position| if orderly { position } else { position.saturating_sub(PAGE as u64) });
        let settled = standing.is_settled(progress).then_some(standing.last_sequence());
        let acked = next_place(credential.acked, progress, settled, floor, position);
        if let Some(acked) = acked {
            let (tenant, instance) = (credential.tenant, credential.instance);
            found.push(FoundPlace { tenant, credential: credential.id, instance, acked });
        }
        let same = acked.is_none_or(|acked| acked.generation == credential.acked.generation);
        if same && orderly && settled.is_some() {
            looked_up.insert(credential.id, (credential.instance, floor));
        }
    }
    Ok(found)
}

impl Standing {
    fn progress(&self, tenant: TenantId) -> Option<&RelayProgress> {
        self.tenants().get(&tenant)
    }
}
