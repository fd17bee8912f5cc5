//! Looks at the copy on JetStream: which message stands where, and what is there of one tenant.

use std::ops::ControlFlow;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::stream::{Info, LastRawMessageErrorKind, Stream};
use futures::StreamExt;
use schemas::engine::{LogId, TenantSlug};
use store::RelayMark;
use uuid::Uuid;

use super::ranges::Ranges;
use crate::connection::{STREAM, describe};
use crate::message::{SUBJECT_ROOT, identity, place};
use crate::{Nats, NatsError};

/// Messages asked for at a time.
const BATCH: usize = 2_000;
/// The server says at least this often that it is there.
const HEARTBEAT: Duration = Duration::from_secs(2);
const EXPIRES: Duration = Duration::from_secs(20);
const INACTIVE: Duration = Duration::from_secs(30);

/// How many messages have left the stream since it was made, one by one, by a purge or in any other way. It stays as it
/// is while messages come, so that whatever is removed shows.
pub(crate) fn removed(stream: &Info) -> u64 {
    stream.state.last_sequence.saturating_sub(stream.state.messages)
}

/// What the stream holds of one tenant.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) positions: Ranges,
    /// The last message.
    pub(super) last: RelayMark,
}

pub(crate) fn handle(nats: &Nats) -> impl Future<Output = Result<Stream<()>, NatsError>> {
    let context = nats.jetstream().clone();
    async move { context.get_stream_no_info(STREAM).await.map_err(|error| api(&error)) }
}

pub(crate) fn api(error: &(dyn std::error::Error + 'static)) -> NatsError {
    NatsError::JetStream(describe(error))
}

/// The headers of the message at a place of the stream, as the stream's leader knows it; `None` where there is none.
pub(crate) async fn message_at(nats: &Nats, sequence: u64) -> Result<Option<HeaderMap>, NatsError> {
    match handle(nats).await?.get_raw_message(sequence).await {
        Ok(message) => Ok(Some(message.headers)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(api(&error)),
    }
}

/// Reads the headers of everything that the stream holds of one tenant, up to a sequence.
pub(super) async fn held(
    nats: &Nats,
    slug: &TenantSlug,
    log: LogId,
    last_sequence: u64,
) -> Result<Held, NatsError> {
    let mut held = Held::default();
    let subject = format!("{SUBJECT_ROOT}.{slug}.>");
    read_headers(nats, DeliverPolicy::All, subject, last_sequence, |sequence, headers| {
        if let Some((_, position)) = place(headers).filter(|(found, _)| *found == log) {
            held.positions.insert(position);
            held.last = RelayMark { sequence, position };
        }
        ControlFlow::Continue(())
    })
    .await?;
    Ok(held)
}

/// Reads the headers of the messages from one sequence to another: of whose log, at which position, which event.
pub(super) async fn each_from(
    nats: &Nats,
    first_sequence: u64,
    last_sequence: u64,
    mut each: impl FnMut(TenantSlug, LogId, u64, Uuid),
) -> Result<(), NatsError> {
    let policy = DeliverPolicy::ByStartSequence { start_sequence: first_sequence };
    read_headers(nats, policy, format!("{SUBJECT_ROOT}.>"), last_sequence, |_, headers| {
        if let Some((slug, log, position, event_id)) = identity(headers) {
            each(slug, log, position, event_id);
        }
        ControlFlow::Continue(())
    })
    .await
}

/// Reads the headers of messages up to a sequence, or until it is told to break off.
pub(crate) async fn read_headers(
    nats: &Nats,
    deliver_policy: DeliverPolicy,
    filter_subject: String,
    last_sequence: u64,
    mut each: impl FnMut(u64, &HeaderMap) -> ControlFlow<()>,
) -> Result<(), NatsError> {
    let config = Config {
        deliver_policy,
        ack_policy: AckPolicy::None,
        replay_policy: ReplayPolicy::Instant,
        filter_subject,
        headers_only: true,
        memory_storage: true,
        num_replicas: 1,
        inactive_threshold: INACTIVE,
        ..Config::default()
    };
    let stream = handle(nats).await?;
    let consumer = stream.create_consumer(config).await.map_err(|error| api(&error))?;
    if consumer.cached_info().num_pending > 0 {
        let none = HeaderMap::new();
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .heartbeat(HEARTBEAT)
            .expires(EXPIRES)
            .messages()
            .await
            .map_err(|error| api(&error))?;
        while let Some(message) = messages.next().await {
            let message = message.map_err(|error| api(&error))?;
            let info = message.info().map_err(|error| NatsError::JetStream(error.to_string()))?;
            let headers = message.headers.as_ref().unwrap_or(&none);
            let goes_on = each(info.stream_sequence, headers).is_continue();
            if !goes_on || info.pending == 0 || info.stream_sequence >= last_sequence {
                break;
            }
        }
    }
    // The server forgets it by itself as well.
    drop(stream.delete_consumer(&consumer.cached_info().name).await);
    Ok(())
}

/// How many messages the stream holds of each tenant, by slug.
pub(super) async fn counts(nats: &Nats) -> Result<std::collections::HashMap<String, u64>, NatsError> {
    let mut counts = std::collections::HashMap::new();
    let subjects = handle(nats).await?.info_with_subjects(format!("{SUBJECT_ROOT}.>")).await;
    let mut subjects = subjects.map_err(|error| api(&error))?;
    while let Some(subject) = subjects.next().await {
        let (subject, count) = subject.map_err(|error| api(&error))?;
        if let Some(slug) = subject.split('.').nth(1) {
            *counts.entry(slug.to_owned()).or_default() += count as u64;
        }
    }
    Ok(counts)
}
