//! Compares the stream with the logs in the database.
//! If the stream holds an event that the log does not have, the database was restored to an earlier state.
//! The log is then replaced before anything else is published.
//!
//! The stream is read first and the database afterwards. An event is published only after its commit, so it must be
//! found.

use std::collections::HashMap;
use std::ops::ControlFlow;

use async_nats::jetstream::consumer::DeliverPolicy;
use schemas::engine::{Actor, LogId, TenantSlug};
use store::{Causes, PublishedEvent, Replacement, Store};

use super::progress;
use super::stream_check::LastAckedMessage;
use super::stream_reader;
use crate::connection::SUBJECT_ROOT;
use crate::message::{self, MessageKey};
use crate::{Nats, NatsError, checkpoints};

/// Compares stream and database, and replaces the logs that have lost events. Returns the number of replaced logs.
///
/// The database stores the stream position of the last acknowledged message of each log.
/// Every event up to the highest of these stream positions was committed before the position was stored, so the
/// database holds it, whatever state was restored.
/// Only the messages after that stream position are compared; normally these are few.
/// If the stream has another message at that stream position, all messages are compared.
/// Messages that the relay did not publish are ignored.
///
/// # Errors
/// [`NatsError`] if the stream or the database cannot be read.
pub async fn check_divergence(store: &Store, nats: &Nats) -> Result<usize, NatsError> {
    let key = MessageKey::of(store.key());
    let progress = progress::all(store).await?;
    let stream = nats.event_stream().await?;
    let farthest = progress.iter().max_by_key(|row| row.acked_message.sequence);
    let farthest = farthest.map(|row| LastAckedMessage { log: row.log_id, acked_message: row.acked_message });
    let known_to = match farthest {
        Some(last_acked)
            if last_acked.acked_message.sequence > 0 && last_acked.is_present(nats, &key).await? =>
        {
            last_acked.acked_message.sequence
        }
        _ => 0,
    };
    let last = stream.state.last_sequence;
    if stream.state.messages == 0 || last <= known_to {
        return Ok(0);
    }
    let mut latest: HashMap<(TenantSlug, LogId), PublishedEvent> = HashMap::new();
    let policy = DeliverPolicy::ByStartSequence { start_sequence: known_to + 1 };
    stream_reader::read(nats, &key, policy, format!("{SUBJECT_ROOT}.>"), last, |_, published| {
        if let Some(message::EventHeaders { tenant: slug, log: log_id, position, event_id, .. }) = published {
            let published = PublishedEvent { slug: slug.clone(), log_id, position, event_id };
            let entry = latest.entry((slug, log_id)).or_insert_with(|| published.clone());
            if position >= entry.position {
                *entry = published;
            }
        }
        ControlFlow::Continue(())
    })
    .await?;
    let published: Vec<PublishedEvent> = latest.into_values().collect();
    let mut lost = store.find_lost_logs(&published).await?;
    if lost.is_empty() {
        return Ok(0);
    }
    let slug = |replacement: &Replacement| {
        let event = published.iter().find(|event| event.log_id == replacement.log_id)?;
        Some(event.slug.clone())
    };
    if let Err(error) = checkpoints::attach_checkpoints(nats, &mut lost, slug).await {
        tracing::warn!(error = %Causes(&error), "the last published checkpoints could not be read: the database's own are cited");
    }
    let reason = "JetStream holds events that the database has lost";
    Ok(store.replace_logs(&lost, reason, &Actor::system("relay")).await?.len())
}
