//! Reads `EVENTS` for the product's own consumers: one JetStream consumer for each process, shared by all its
//! subscribers.
//! It starts with new messages and guarantees no completeness. A subscriber tracks its contiguous position and reads
//! missing events from the log (`store::feed` does).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{Config, MessagesErrorKind};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::{Message, stream};
use futures::{Stream, StreamExt};
use schemas::engine::{LogId, TenantId, TenantSlug};
use store::feed::Batch;
use store::{Causes, Store};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::connection::{STREAM, describe};
use crate::message::{MessageKey, decode};
use crate::{Nats, NatsError};

/// Maximum batches that a slow subscriber may lag. Then it loses batches and reads the log instead.
const BACKLOG_BATCHES_MAX: usize = 256;
/// Maximum messages handled together if they have already arrived.
const CHUNK_SIZE_MAX: usize = 256;
/// The server sends a heartbeat at least this often, so that a dead consumer is detected.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
const REQUEST_EXPIRY: Duration = Duration::from_secs(20);
/// The server deletes the consumer this long after the process has stopped.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(30);
/// First and longest wait after a failure.
const BACKOFF_RANGE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The process's consumer of `EVENTS`. Cheap to clone.
#[derive(Clone)]
pub struct StreamConsumer {
    batches: broadcast::Sender<Arc<Batch>>,
}

impl StreamConsumer {
    /// Starts reading, until cancelled. Outages are retried.
    pub fn start(store: Store, nats: Nats, cancel: CancellationToken) -> Self {
        let batches = broadcast::Sender::new(BACKLOG_BATCHES_MAX);
        let follower = Self { batches: batches.clone() };
        tokio::spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = consume_forever(&store, &nats, &batches) => {}
            }
        });
        follower
    }

    /// The batches from now on. The stream ends when the consumer is cancelled and every clone is dropped.
    pub fn batches(&self) -> impl Stream<Item = Batch> + Send + 'static + use<> {
        futures::stream::unfold(self.batches.subscribe(), |mut receiver| async {
            loop {
                match receiver.recv().await {
                    Ok(batch) => return Some(((*batch).clone(), receiver)),
                    Err(broadcast::error::RecvError::Lagged(lost)) => {
                        metrics::counter!("annals_consumer_lost_batches_total").increment(lost);
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })
    }
}

async fn consume_forever(store: &Store, nats: &Nats, batches: &broadcast::Sender<Arc<Batch>>) {
    let key = MessageKey::of(store.key());
    let (first, longest) = BACKOFF_RANGE;
    let mut wait = first;
    let mut own = None;
    loop {
        let consumed = async {
            let nats = match &mut own {
                Some(connected) => connected,
                none => none.insert(nats.connect_again().await?),
            };
            consume(store, nats, &key, batches, &mut wait).await
        };
        match consumed.await {
            Ok(()) => tracing::debug!("the consumer of EVENTS ended; it is made anew"),
            Err(error) if error.is_unavailable() => {
                tracing::debug!(error = %Causes(&error), "following EVENTS was interrupted");
            }
            Err(error) => tracing::warn!(error = %Causes(&error), "EVENTS cannot be followed"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(longest);
    }
}

/// Creates a consumer and passes its messages on until it fails.
/// `OrderedConfig` is not used: recreated before its first message it would start from the beginning of the stream, and
/// after a purge it would wait for a distant sequence.
/// Starting with new messages is always correct, because subscribers read missing events from the log.
async fn consume(
    store: &Store,
    nats: &Nats,
    key: &MessageKey,
    batches: &broadcast::Sender<Arc<Batch>>,
    wait: &mut Duration,
) -> Result<(), NatsError> {
    let mut connections = nats.connections();
    connections.mark_unchanged();
    nats.event_stream().await?;
    let stream: stream::Stream<()> =
        nats.jetstream().get_stream_no_info(STREAM).await.map_err(|error| api_error(&error))?;
    let config = Config {
        deliver_policy: DeliverPolicy::New,
        ack_policy: AckPolicy::None,
        replay_policy: ReplayPolicy::Instant,
        memory_storage: true,
        num_replicas: 1,
        inactive_threshold: INACTIVE_THRESHOLD,
        ..Config::default()
    };
    let consumer = stream.create_consumer(config).await.map_err(|error| api_error(&error))?;
    let messages = consumer
        .stream()
        .max_messages_per_batch(1_000)
        .heartbeat(HEARTBEAT_INTERVAL)
        .expires(REQUEST_EXPIRY)
        .messages()
        .await
        .map_err(|error| api_error(&error))?;
    let mut chunks = messages.ready_chunks(CHUNK_SIZE_MAX);
    let mut silent = false;
    loop {
        let chunk = tokio::select! {
            chunk = chunks.next() => chunk,
            // The server may have deleted the consumer without a notice.
            Ok(()) = connections.changed() => return Ok(()),
        };
        let Some(chunk) = chunk else { return Ok(()) };
        let mut read = Vec::with_capacity(chunk.len());
        let mut failed = None;
        for message in chunk {
            match message {
                Ok(message) => read.push(message),
                Err(error) => failed = Some(error),
            }
        }
        if !read.is_empty() {
            silent = false;
            *wait = BACKOFF_RANGE.0;
            dispatch(store, key, read, batches).await;
        }
        match failed {
            // One missed heartbeat is tolerated; after two in a row the consumer is dead.
            Some(error) if error.kind() == MessagesErrorKind::MissingHeartbeat && !silent => silent = true,
            Some(error) => return Err(NatsError::JetStream(describe(&error))),
            None => {}
        }
    }
}

fn api_error(error: &(dyn std::error::Error + 'static)) -> NatsError {
    NatsError::JetStream(describe(error))
}

/// Decodes messages, groups them by tenant and sends the batches. Messages that the relay did not publish are counted
/// and dropped.
async fn dispatch(
    store: &Store,
    key: &MessageKey,
    messages: Vec<Message>,
    batches: &broadcast::Sender<Arc<Batch>>,
) {
    let mut tenants: HashMap<TenantSlug, Option<TenantId>> = HashMap::new();
    let mut gathered: Vec<Batch> = Vec::new();
    let mut latest: HashMap<(TenantId, LogId), usize> = HashMap::new();
    for message in messages {
        let sequence = message.info().ok().map(|info| info.stream_sequence);
        let message = message.message;
        let (slug, event) = match decode(key, &message.subject, message.headers.as_ref(), message.payload) {
            Ok(decoded) => decoded,
            Err(error) => {
                key.reject(&message.subject, sequence, &error);
                continue;
            }
        };
        if !tenants.contains_key(&slug) {
            let found = find_tenant(store, &slug).await;
            tenants.insert(slug.clone(), found);
        }
        let Some(tenant) = tenants.get(&slug).copied().flatten() else { continue };
        let key = (tenant, event.log_id);
        match latest.get(&key).map(|index| &mut gathered[*index]) {
            Some(batch) if batch.events.last().is_some_and(|last| last.position + 1 == event.position) => {
                batch.events.push(event);
            }
            _ => {
                latest.insert(key, gathered.len());
                gathered.push(Batch { tenant, log_id: event.log_id, events: vec![event] });
            }
        }
    }
    for batch in gathered {
        // An error means that there is no subscriber, which is allowed.
        drop(batches.send(Arc::new(batch)));
    }
}

async fn find_tenant(store: &Store, slug: &TenantSlug) -> Option<TenantId> {
    match store.tenant_by_slug(slug).await {
        Ok(Some(record)) => Some(record.id),
        Ok(None) => {
            tracing::warn!(%slug, "EVENTS holds events of an unknown tenant; they are skipped");
            None
        }
        // The database is not available. Subscribers read these events from the log later.
        Err(error) => {
            tracing::debug!(error = %Causes(&error), "a tenant cannot be looked up");
            None
        }
    }
}
