//! Looks at the copy on JetStream: which message stands where, and what is there of one tenant.

use std::ops::ControlFlow;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::stream::{Info, Stream};
use async_nats::{HeaderMap, jetstream};
use futures::StreamExt;
use schemas::engine::{LogId, TenantSlug};
use store::{Causes, RelayMark};

use super::ranges::Ranges;
use super::stored::message_from;
use crate::connection::{STREAM, describe};
use crate::message::{MessageKey, Published, SUBJECT_ROOT};
use crate::{Nats, NatsError};

/// Messages asked for at a time.
const BATCH: usize = 2_000;
/// The server says at least this often that it is there.
const HEARTBEAT: Duration = Duration::from_secs(2);
const EXPIRES: Duration = Duration::from_secs(20);
const INACTIVE: Duration = Duration::from_secs(30);
/// How long a message that is there may take.
const SILENCE: Duration = Duration::from_secs(4);
/// Messages read one by one after an interruption, before a consumer is tried again.
const ONE_BY_ONE: usize = 256;

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

/// Reads the headers of everything that the stream holds of one tenant, up to a sequence.
pub(super) async fn held(
    nats: &Nats,
    key: &MessageKey,
    slug: &TenantSlug,
    log: LogId,
    last_sequence: u64,
) -> Result<Held, NatsError> {
    let mut held = Held::default();
    let subject = format!("{SUBJECT_ROOT}.{slug}.>");
    read(nats, key, DeliverPolicy::All, subject, last_sequence, |sequence, published| {
        if let Some(Published { position, .. }) = published.filter(|published| published.log == log) {
            held.positions.insert(position);
            held.last = RelayMark { sequence, position };
        }
        ControlFlow::Continue(())
    })
    .await?;
    Ok(held)
}

/// Reads the headers of messages up to a sequence, or until it is told to break off. Messages that are not the relay's are
/// shown as `None`; such a message may also end the client's connection or look like the end of the consumer, so after an
/// interruption the next ones are read one by one.
pub(crate) async fn read(
    nats: &Nats,
    key: &MessageKey,
    deliver_policy: DeliverPolicy,
    filter: String,
    last_sequence: u64,
    mut each: impl FnMut(u64, Option<Published>) -> ControlFlow<()>,
) -> Result<(), NatsError> {
    let mut reading = Reading { policy: deliver_policy, filter, last_sequence, seen: None, ended: false };
    while !reading.ended {
        let before = reading.seen;
        let consumed = reading.consume(nats, |sequence, subject, headers| match headers {
            Some(headers) => match Published::read(key, subject, headers) {
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
            Err(error) if reading.seen == before && reading.seen.is_none() => return Err(error),
            Err(error) => {
                tracing::debug!(error = %Causes(&error), seen = reading.seen, "reading EVENTS was interrupted");
                if reading.seen == before {
                    reading.one_by_one(nats, key, &mut each).await?;
                }
            }
        }
    }
    Ok(())
}

struct Reading {
    policy: DeliverPolicy,
    filter: String,
    last_sequence: u64,
    /// The place up to which everything was shown; `None` before the first place is known.
    seen: Option<u64>,
    ended: bool,
}

impl Reading {
    /// Reads on with a consumer until the end or an interruption.
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
        let consumer = stream.create_consumer(self.config(policy)).await.map_err(|error| api(&error))?;
        let info = consumer.cached_info();
        self.seen.get_or_insert(info.delivered.stream_sequence);
        if info.num_pending == 0 {
            self.ended = true;
        } else {
            let mut messages = consumer
                .stream()
                .max_messages_per_batch(BATCH)
                .heartbeat(HEARTBEAT)
                .expires(EXPIRES)
                .messages()
                .await
                .map_err(|error| api(&error))?;
            let mut delivered = 0;
            while !self.ended {
                let next = tokio::time::timeout(SILENCE, messages.next());
                let message = tokio::select! {
                    biased;
                    message = next => message,
                    Ok(()) = connections.changed() => {
                        return Err(NatsError::JetStream("the connection was lost".to_owned()));
                    }
                };
                // The client keeps messages with some statuses to itself.
                let message =
                    message.map_err(|_elapsed| NatsError::JetStream("no message came".to_owned()))?;
                let Some(message) = message else { break };
                let message: jetstream::Message = message.map_err(|error| api(&error))?;
                let info = message.info().map_err(|error| NatsError::JetStream(error.to_string()))?;
                delivered += 1;
                if info.consumer_sequence != delivered {
                    // What the connection before had under way is not sent again.
                    return Err(NatsError::JetStream("messages were lost on the way".to_owned()));
                }
                let place = info.stream_sequence;
                let goes_on = each(place, &message.subject, message.headers.as_ref()).is_continue();
                self.seen = Some(place);
                self.ended = !goes_on || info.pending == 0 || place >= self.last_sequence;
            }
        }
        // The server forgets it by itself as well.
        drop(stream.delete_consumer(&consumer.cached_info().name).await);
        Ok(())
    }

    /// Reads on past what no consumer gets past.
    async fn one_by_one(
        &mut self,
        nats: &Nats,
        key: &MessageKey,
        mut each: impl FnMut(u64, Option<Published>) -> ControlFlow<()>,
    ) -> Result<(), NatsError> {
        for _ in 0..ONE_BY_ONE {
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
            inactive_threshold: INACTIVE,
            ..Config::default()
        }
    }
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
