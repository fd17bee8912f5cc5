//! Reads the stream: its messages, and the positions that it holds of one tenant.

use std::ops::ControlFlow;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::stream::{Info, Stream};
use async_nats::{HeaderMap, jetstream};
use futures::StreamExt;
use schemas::engine::{LogId, TenantSlug};
use store::Causes;

use super::position_ranges::PositionRanges;
use super::progress::AckedMessage;
use super::stored_message::{api_error, message_from};
use crate::connection::STREAM;
use crate::connection::SUBJECT_ROOT;
use crate::message::{EventHeaders, MessageKey};
use crate::{Nats, NatsError};

/// Maximum messages of one request.
const BATCH_SIZE_MAX: usize = 2_000;
/// The server sends a heartbeat at least this often.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
const REQUEST_EXPIRY: Duration = Duration::from_secs(20);
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(30);
/// Maximum wait for an existing message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(4);
/// Messages that are read one by one after an interruption, before a consumer is tried again.
const DIRECT_READS_MAX: usize = 256;

/// How many messages have left the stream since its creation, by removal, purge or otherwise.
/// New messages do not change it, so every removal is visible.
pub(crate) fn removed_count(stream: &Info) -> u64 {
    stream.state.last_sequence.saturating_sub(stream.state.messages)
}

/// What the stream holds of one tenant.
#[derive(Debug, Default)]
pub(super) struct TenantContent {
    pub(super) positions: PositionRanges,
    /// The message with the highest stream position.
    pub(super) last: AckedMessage,
}

pub(crate) fn handle(nats: &Nats) -> impl Future<Output = Result<Stream<()>, NatsError>> {
    let context = nats.jetstream().clone();
    async move { context.get_stream_no_info(STREAM).await.map_err(|error| api_error(&error)) }
}

/// Reads the headers of all messages of one tenant, up to a stream position.
pub(super) async fn read_tenant_content(
    nats: &Nats,
    key: &MessageKey,
    slug: &TenantSlug,
    log: LogId,
    last_sequence: u64,
) -> Result<TenantContent, NatsError> {
    let mut content = TenantContent::default();
    let subject = format!("{SUBJECT_ROOT}.{slug}.>");
    read(nats, key, DeliverPolicy::All, subject, last_sequence, |sequence, published| {
        if let Some(EventHeaders { position, .. }) = published.filter(|published| published.log == log) {
            content.positions.insert(position);
            content.last = AckedMessage { sequence, position };
        }
        ControlFlow::Continue(())
    })
    .await?;
    Ok(content)
}

/// Reads the headers of all events of one category that the relay has published, up to a stream position.
///
/// # Errors
/// [`NatsError`] if the stream cannot be read.
pub async fn read_category(
    nats: &Nats,
    key: &MessageKey,
    category: &str,
    last_sequence: u64,
    mut each: impl FnMut(EventHeaders),
) -> Result<(), NatsError> {
    let subjects = format!("{SUBJECT_ROOT}.*.{category}.>");
    read(nats, key, DeliverPolicy::All, subjects, last_sequence, |_, published| {
        if let Some(published) = published {
            each(published);
        }
        ControlFlow::Continue(())
    })
    .await
}

/// Reads the headers of messages up to a stream position, or until `each` breaks.
/// A message that the relay did not publish is passed as `None`.
/// Such a message may also end the client's connection or look like the end of the consumer.
/// So after an interruption the next messages are read one by one.
pub(crate) async fn read(
    nats: &Nats,
    key: &MessageKey,
    deliver_policy: DeliverPolicy,
    filter: String,
    last_sequence: u64,
    mut each: impl FnMut(u64, Option<EventHeaders>) -> ControlFlow<()>,
) -> Result<(), NatsError> {
    let mut reader = StreamReader { policy: deliver_policy, filter, last_sequence, seen: None, ended: false };
    while !reader.ended {
        let before = reader.seen;
        let consumed = reader.consume(nats, |sequence, subject, headers| match headers {
            Some(headers) => match EventHeaders::read(key, subject, headers) {
                Ok(published) => each(sequence, Some(published)),
                Err(error) => {
                    key.reject(subject, Some(sequence), &error);
                    each(sequence, None)
                }
            },
            None => each(sequence, None),
        });
        match consumed.await {
            Ok(()) => {}
            Err(error) if reader.seen == before && reader.seen.is_none() => return Err(error),
            Err(error) => {
                tracing::debug!(error = %Causes(&error), seen = reader.seen, "reading EVENTS was interrupted");
                if reader.seen == before {
                    reader.read_directly(nats, key, &mut each).await?;
                }
            }
        }
    }
    Ok(())
}

struct StreamReader {
    policy: DeliverPolicy,
    filter: String,
    last_sequence: u64,
    /// The last stream position that was read; `None` before the first is known.
    seen: Option<u64>,
    ended: bool,
}

impl StreamReader {
    /// Continues with a consumer until the end or an interruption.
    async fn consume(
        &mut self,
        nats: &Nats,
        mut each: impl FnMut(u64, &str, Option<&HeaderMap>) -> ControlFlow<()>,
    ) -> Result<(), NatsError> {
        let mut connections = nats.connections();
        connections.mark_unchanged();
        let policy =
            self.seen.map_or(self.policy, |seen| DeliverPolicy::ByStartSequence { start_sequence: seen + 1 });
        let stream = handle(nats).await?;
        let consumer =
            stream.create_consumer(self.config(policy)).await.map_err(|error| api_error(&error))?;
        let info = consumer.cached_info();
        self.seen.get_or_insert(info.delivered.stream_sequence);
        if info.num_pending == 0 {
            self.ended = true;
        } else {
            let mut messages = consumer
                .stream()
                .max_messages_per_batch(BATCH_SIZE_MAX)
                .heartbeat(HEARTBEAT_INTERVAL)
                .expires(REQUEST_EXPIRY)
                .messages()
                .await
                .map_err(|error| api_error(&error))?;
            let mut delivered = 0;
            while !self.ended {
                let next = tokio::time::timeout(MESSAGE_TIMEOUT, messages.next());
                let message = tokio::select! {
                    biased;
                    message = next => message,
                    Ok(()) = connections.changed() => {
                        return Err(NatsError::JetStream("the connection was lost".to_owned()));
                    }
                };
                // The client does not pass on messages with some statuses.
                let message =
                    message.map_err(|_elapsed| NatsError::JetStream("no message came".to_owned()))?;
                let Some(message) = message else { break };
                let message: jetstream::Message = message.map_err(|error| api_error(&error))?;
                let info = message.info().map_err(|error| NatsError::JetStream(error.to_string()))?;
                delivered += 1;
                if info.consumer_sequence != delivered {
                    // The server does not send again what the lost connection had in flight.
                    return Err(NatsError::JetStream("messages were lost on the way".to_owned()));
                }
                let sequence = info.stream_sequence;
                let goes_on = each(sequence, &message.subject, message.headers.as_ref()).is_continue();
                self.seen = Some(sequence);
                self.ended = !goes_on || info.pending == 0 || sequence >= self.last_sequence;
            }
        }
        // If this fails, the server removes the consumer after `INACTIVE_THRESHOLD`.
        drop(stream.delete_consumer(&consumer.cached_info().name).await);
        Ok(())
    }

    /// Reads messages one by one, to get past those that interrupt a consumer.
    async fn read_directly(
        &mut self,
        nats: &Nats,
        key: &MessageKey,
        mut each: impl FnMut(u64, Option<EventHeaders>) -> ControlFlow<()>,
    ) -> Result<(), NatsError> {
        for _ in 0..DIRECT_READS_MAX {
            let next = self.seen.map_or(1, |seen| seen + 1);
            let found = message_from(nats, next, &self.filter).await?;
            let Some(found) = found.filter(|found| found.sequence <= self.last_sequence) else {
                self.ended = true;
                return Ok(());
            };
            let goes_on = each(found.sequence, found.published(key)).is_continue();
            self.seen = Some(found.sequence);
            if !goes_on {
                self.ended = true;
                return Ok(());
            }
        }
        Ok(())
    }

    fn config(&self, deliver_policy: DeliverPolicy) -> Config {
        Config {
            deliver_policy,
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            filter_subject: self.filter.clone(),
            headers_only: true,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: INACTIVE_THRESHOLD,
            ..Config::default()
        }
    }
}

/// How many messages the stream holds of each tenant, by slug.
pub(super) async fn counts(nats: &Nats) -> Result<std::collections::HashMap<String, u64>, NatsError> {
    let mut counts = std::collections::HashMap::new();
    let subjects = handle(nats).await?.info_with_subjects(format!("{SUBJECT_ROOT}.>")).await;
    let mut subjects = subjects.map_err(|error| api_error(&error))?;
    while let Some(subject) = subjects.next().await {
        let (subject, count) = subject.map_err(|error| api_error(&error))?;
        if let Some(slug) = subject.split('.').nth(1) {
            *counts.entry(slug.to_owned()).or_default() += count as u64;
        }
    }
    Ok(counts)
}
