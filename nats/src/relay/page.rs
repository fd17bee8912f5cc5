//! One page of one tenant: read it from the log, publish it, wait for the acknowledgements in order.

use std::future::IntoFuture;

use futures::{FutureExt, StreamExt};
use schemas::engine::{LogId, RecordedEvent, TenantId, TenantSlug};
use store::{AckedMessage, Causes, Store, StoreError};
use tokio::sync::Semaphore;

use super::stored_message::message_at;
use crate::connection::{STREAM, describe};
use crate::message::{EventMessage, MessageKey, encode, is_message_of};
use crate::{Nats, NatsError};

/// Acknowledged repeats that are looked up at once.
const CONCURRENT_LOOKUPS_MAX: usize = 32;

/// What to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RelayPage {
    pub(super) slug: TenantSlug,
    pub(super) log_id: LogId,
    pub(super) stream_epoch: u32,
    pub(super) after: u64,
    pub(super) limit: usize,
    /// Messages that had left the stream when this was begun.
    pub(super) removed: u64,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct PageResult {
    /// Everything up to here is acknowledged; the page's `after` where nothing is.
    pub(super) acked_to: u64,
    /// The farthest place in the stream that was acknowledged.
    pub(super) acked_message: AckedMessage,
    /// Whether the log had as much as the page could take.
    pub(super) full: bool,
    /// Whether the stream had any of it already.
    pub(super) repeated: bool,
    pub(super) failure: Option<PublishError>,
}

impl PageResult {
    /// A page whose task has ended before its time.
    pub(super) fn aborted(page: &RelayPage, error: &tokio::task::JoinError) -> Self {
        let failure = PublishError::Aborted(error.to_string());
        Self::failed(page, failure)
    }

    fn failed(page: &RelayPage, failure: PublishError) -> Self {
        Self {
            acked_to: page.after,
            acked_message: AckedMessage::default(),
            full: false,
            repeated: false,
            failure: Some(failure),
        }
    }
}

/// Why a page ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum PublishError {
    #[error("the log cannot be read")]
    Log(#[from] StoreError),
    #[error("JetStream did not take an event: {0}")]
    JetStream(String),
    /// Its id is taken, and what is stored under it is gone or somebody else's.
    #[error("JetStream took position {0} for a repeat of a message that it does not hold")]
    Suppressed(u64),
    #[error("the page was given up: {0}")]
    Aborted(String),
}

impl From<NatsError> for PublishError {
    fn from(error: NatsError) -> Self {
        Self::JetStream(Causes(&error).to_string())
    }
}

impl PublishError {
    pub(super) fn is_store(&self) -> bool {
        matches!(self, Self::Log(_))
    }
}

/// Publishes a page. Takes its share of what may be in flight before reading, so that memory is bounded as well.
pub(super) async fn publish(
    store: &Store,
    nats: &Nats,
    key: &MessageKey,
    in_flight: &Semaphore,
    reads: &Semaphore,
    tenant: TenantId,
    page: &RelayPage,
) -> PageResult {
    let permits = u32::try_from(page.limit).unwrap_or(u32::MAX);
    let mut share = in_flight.acquire_many(permits).await.expect("the semaphore is never closed");
    let read = {
        let _read = reads.acquire().await.expect("the semaphore is never closed");
        store.relay_events(tenant, page.log_id, page.after, page.limit).await
    };
    let events = match read {
        Ok(events) => events,
        Err(error) => return PageResult::failed(page, error.into()),
    };
    drop(share.split(page.limit.saturating_sub(events.len())));
    let full = events.len() == page.limit;
    let SendResult { acked, acked_message, repeated, failure } =
        send(nats, key, &page.slug, page.stream_epoch, &events).await;
    let acked_to = acked.checked_sub(1).map_or(page.after, |last| events[last].position);
    PageResult { acked_to, acked_message, full, repeated, failure }
}

/// What became of events that were sent.
pub(super) struct SendResult {
    /// How many are on the stream for certain, from the first on.
    pub(super) acked: usize,
    /// The one of these that stands farthest.
    pub(super) acked_message: AckedMessage,
    /// Whether the stream had any of these already.
    pub(super) repeated: bool,
    pub(super) failure: Option<PublishError>,
}

/// Publishes events in order and waits until each is on the stream.
pub(super) async fn send(
    nats: &Nats,
    key: &MessageKey,
    slug: &TenantSlug,
    stream_epoch: u32,
    events: &[RecordedEvent],
) -> SendResult {
    let mut connections = nats.connections();
    connections.mark_unchanged();
    let mut pending = Vec::with_capacity(events.len());
    let mut failure = None;
    for event in events {
        let EventMessage { subject, headers, payload } = encode(key, slug, event, stream_epoch);
        let message =
            async_nats::jetstream::message::PublishMessage::build().payload(payload).headers(headers);
        match nats.jetstream().send_publish(subject, message).await {
            Ok(ack) => pending.push(ack),
            Err(error) => {
                failure = Some(PublishError::JetStream(describe(&error)));
                break;
            }
        }
    }
    let mut places = Vec::with_capacity(pending.len());
    for ack in pending {
        let ack = tokio::select! {
            biased;
            ack = ack.into_future() => ack,
            // What was to come by the connection before does not come any more.
            Ok(()) = connections.changed() => {
                failure = Some(PublishError::JetStream("the connection was lost".to_owned()));
                break;
            }
        };
        match ack {
            Ok(ack) if ack.stream == STREAM => places.push((ack.sequence, ack.duplicate)),
            Ok(ack) => {
                failure = Some(PublishError::JetStream(format!("the stream {} took it instead", ack.stream)));
                break;
            }
            Err(error) => {
                failure = Some(PublishError::JetStream(describe(&error)));
                break;
            }
        }
    }
    // A repeat is acknowledged also when the message that it repeats is gone, or is another client's under the same id.
    let repeats: Vec<_> = events
        .iter()
        .zip(&places)
        .enumerate()
        .filter(|(_, (_, (_, duplicate)))| *duplicate)
        .map(|(index, (event, (sequence, _)))| {
            let held = async move {
                let found = message_at(nats, *sequence).await?;
                if found.is_some_and(|found| is_message_of(key, &found, slug, event, stream_epoch)) {
                    return Ok(());
                }
                Err(PublishError::Suppressed(event.position))
            };
            held.map(move |held| (index, held)).boxed()
        })
        .collect();
    let repeated = !repeats.is_empty();
    let mut checked = futures::stream::iter(repeats).buffered(CONCURRENT_LOOKUPS_MAX);
    let mut acked = places.len();
    while let Some((index, held)) = checked.next().await {
        if let Err(error) = held {
            (acked, failure) = (index, Some(error));
            break;
        }
    }
    let acked_message = events[..acked].iter().zip(&places).fold(
        AckedMessage::default(),
        |acked_message, (event, (sequence, _))| {
            acked_message.later(AckedMessage { sequence: *sequence, position: event.position })
        },
    );
    SendResult { acked, acked_message, repeated, failure }
}
