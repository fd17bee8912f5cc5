//! Publishes one page of one tenant: reads it from the log, publishes it, and waits for the acknowledgements in order.

use std::future::IntoFuture;

use futures::{FutureExt, StreamExt};
use schemas::engine::{LogId, RecordedEvent, TenantId, TenantSlug};
use store::invariants::first_gap;
use store::{Causes, Invariant, Store, StoreError};
use tokio::sync::Semaphore;

use super::progress::AckedMessage;
use super::stored_message::message_at;
use crate::connection::{STREAM, describe};
use crate::message::{EventMessage, MessageKey, encode, is_message_of};
use crate::{Nats, NatsError};

/// Maximum events of one page of one tenant. A small page shares the connection fairly between tenants.
/// A tenant has one page in flight. So if a position is in the stream, at most the last `PAGE_SIZE_MAX` positions
/// before it can be missing, even after an interruption.
pub(crate) const PAGE_SIZE_MAX: usize = 250;

/// Maximum concurrent lookups of messages that were acknowledged as duplicates.
const CONCURRENT_LOOKUPS_MAX: usize = 32;

/// What to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RelayPage {
    pub(super) slug: TenantSlug,
    pub(super) log_id: LogId,
    pub(super) stream_epoch: u32,
    pub(super) after: u64,
    pub(super) limit: usize,
    /// Messages that had left the stream when this page was begun.
    pub(super) removed: u64,
}

/// Result of publishing a page.
#[derive(Debug)]
pub(super) struct PageResult {
    /// All positions up to this one are acknowledged. It equals the page's `after` if none is.
    pub(super) acked_to: u64,
    /// The acknowledged message with the highest stream position.
    pub(super) acked_message: AckedMessage,
    /// Whether the log had at least as many events as the page could take.
    pub(super) full: bool,
    /// Whether the stream already held one of the events.
    pub(super) repeated: bool,
    pub(super) failure: Option<PublishError>,
}

impl PageResult {
    /// The result of a page whose task was cancelled or panicked.
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
    /// JetStream reports a duplicate, but the stored message is gone or is not this event.
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

    /// Whether data of the tenant break a rule that always holds.
    pub(super) fn is_violation(&self) -> bool {
        matches!(self, Self::Log(error) if error.is_violation())
    }
}

/// Publishes a page. It takes its permits for events in flight before it reads, so that memory is bounded too.
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
    if let Some(gap) = first_gap(page.after, events.iter().map(|event| event.position)) {
        return PageResult::failed(page, store.violation(tenant, Invariant::RelayPage, gap).into());
    }
    drop(share.split(page.limit.saturating_sub(events.len())));
    let full = events.len() == page.limit;
    let SendResult { acked, acked_message, repeated, failure } =
        send(nats, key, &page.slug, page.stream_epoch, &events).await;
    let acked_to = acked.checked_sub(1).map_or(page.after, |last| events[last].position);
    PageResult { acked_to, acked_message, full, repeated, failure }
}

/// Result of sending events.
pub(super) struct SendResult {
    /// How many of the events, from the first, are certainly in the stream.
    pub(super) acked: usize,
    /// The acknowledged message with the highest stream position.
    pub(super) acked_message: AckedMessage,
    /// Whether the stream already held one of the events.
    pub(super) repeated: bool,
    pub(super) failure: Option<PublishError>,
}

/// Publishes events in order and waits until each one is acknowledged.
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
            // Acknowledgements of the lost connection never arrive.
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
    // JetStream also acknowledges a duplicate if the first message is gone, or if another client used the same id.
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
