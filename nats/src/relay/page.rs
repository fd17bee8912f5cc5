//! One page of one tenant: read it from the log, publish it, wait for the acknowledgements in order.

use schemas::engine::{LogId, TenantId, TenantSlug};
use store::{Store, StoreError};
use tokio::sync::Semaphore;

use crate::Nats;
use crate::connection::{STREAM, describe};
use crate::message::{EventMessage, encode};

/// What to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) slug: TenantSlug,
    pub(super) log_id: LogId,
    pub(super) generation: u32,
    pub(super) after: u64,
    pub(super) limit: usize,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Published {
    /// Everything up to here is acknowledged; the page's `after` where nothing is.
    pub(super) acked_to: u64,
    /// Whether the log had as much as the page could take.
    pub(super) full: bool,
    pub(super) failure: Option<PublishFailure>,
}

impl Published {
    /// A page whose task has ended before its time.
    pub(super) fn given_up(page: &Page, error: &tokio::task::JoinError) -> Self {
        let failure = PublishFailure::GivenUp(error.to_string());
        Self { acked_to: page.after, full: false, failure: Some(failure) }
    }
}

/// Why a page ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum PublishFailure {
    #[error("the log cannot be read: {0}")]
    Log(#[from] StoreError),
    #[error("JetStream did not take an event: {0}")]
    JetStream(String),
    #[error("the page was given up: {0}")]
    GivenUp(String),
}

impl PublishFailure {
    pub(super) fn is_store(&self) -> bool {
        matches!(self, Self::Log(_))
    }
}

/// Publishes a page. Takes its share of what may be in flight before reading, so that memory is bounded as well.
pub(super) async fn publish(
    store: &Store,
    nats: &Nats,
    in_flight: &Semaphore,
    reads: &Semaphore,
    tenant: TenantId,
    page: &Page,
) -> Published {
    let permits = u32::try_from(page.limit).unwrap_or(u32::MAX);
    let mut share = in_flight.acquire_many(permits).await.expect("the semaphore is never closed");
    let read = {
        let _read = reads.acquire().await.expect("the semaphore is never closed");
        store.relay_events(tenant, page.log_id, page.after, page.limit).await
    };
    let events = match read {
        Ok(events) => events,
        Err(error) => return Published { acked_to: page.after, full: false, failure: Some(error.into()) },
    };
    drop(share.split(page.limit.saturating_sub(events.len())));
    let full = events.len() == page.limit;
    let mut pending = Vec::with_capacity(events.len());
    let mut failure = None;
    for event in &events {
        let EventMessage { subject, headers, payload } = encode(&page.slug, event, page.generation);
        let message =
            async_nats::jetstream::message::PublishMessage::build().payload(payload).headers(headers);
        match nats.jetstream().send_publish(subject, message).await {
            Ok(ack) => pending.push((event.position, ack)),
            Err(error) => {
                failure = Some(PublishFailure::JetStream(describe(&error)));
                break;
            }
        }
    }
    let mut acked_to = page.after;
    for (position, ack) in pending {
        match ack.await {
            Ok(ack) if ack.stream == STREAM => acked_to = position,
            Ok(ack) => {
                failure =
                    Some(PublishFailure::JetStream(format!("the stream {} took it instead", ack.stream)));
                break;
            }
            Err(error) => {
                failure = Some(PublishFailure::JetStream(describe(&error)));
                break;
            }
        }
    }
    Published { acked_to, full, failure }
}
