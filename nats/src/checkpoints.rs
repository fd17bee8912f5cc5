//! Signed checkpoints of the tenants' Merkle logs on `checkpoints.<tenant>`, so that followers keep them.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{GetStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::stream::{Config, LastRawMessageErrorKind, RetentionPolicy, StorageType, Stream};
use schemas::engine::TenantSlug;
use store::Replacement;

use crate::connection::describe;
use crate::{Nats, NatsError};

/// The stream that holds them.
pub const STREAM: &str = "CHECKPOINTS";
/// The first token of their subjects.
pub const SUBJECT_ROOT: &str = "checkpoints";
/// Checkpoints of a tenant that are kept: half an hour of a busy one.
const CHECKPOINTS_RETAINED: i64 = 1_000;

/// Publishes a tenant's newest checkpoint.
pub async fn publish(nats: &Nats, tenant: &TenantSlug, note: &str) -> Result<(), NatsError> {
    if !nats.is_connected() {
        return Err(NatsError::Unreachable);
    }
    let subject = format!("{SUBJECT_ROOT}.{tenant}");
    let send = async || match nats.jetstream().publish(subject.clone(), note.to_owned().into()).await {
        Ok(acknowledged) => acknowledged.await.map(|_| ()),
        Err(error) => Err(error),
    };
    let sent = match send().await {
        // Nobody takes it: the stream is not there yet, or no more.
        Err(error) if error.kind() == PublishErrorKind::StreamNotFound => {
            stream(nats).await?;
            send().await
        }
        sent => sent,
    };
    sent.map_err(|error| NatsError::JetStream(describe(&error)))
}

/// The checkpoint of a tenant that was published last.
pub async fn last(nats: &Nats, tenant: &TenantSlug) -> Result<Option<String>, NatsError> {
    if !nats.is_connected() {
        return Err(NatsError::Unreachable);
    }
    let subject = format!("{SUBJECT_ROOT}.{tenant}");
    match stream(nats).await?.get_last_raw_message_by_subject(&subject).await {
        Ok(message) => Ok(String::from_utf8(message.payload.into()).ok()),
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(NatsError::JetStream(describe(&error))),
    }
}

/// Gives each log the checkpoint that was published last under its tenant's name, for its replacement to cite. The store
/// judges whether that holds. Where JetStream does not answer, the rest goes without.
pub async fn attach_checkpoints(
    nats: &Nats,
    replacements: &mut [Replacement],
    slug: impl Fn(&Replacement) -> Option<TenantSlug>,
) -> Result<(), NatsError> {
    for replacement in replacements {
        if let Some(slug) = slug(replacement) {
            replacement.checkpoints.extend(last(nats, &slug).await?);
        }
    }
    Ok(())
}

/// The stream, made where it is missing.
async fn stream(nats: &Nats) -> Result<Stream, NatsError> {
    let missing = match nats.jetstream().get_stream(STREAM).await {
        Ok(stream) => return Ok(stream),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(refusal) if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Config {
                    name: STREAM.to_owned(),
                    description: Some("Signed checkpoints of every tenant's Merkle log".to_owned()),
                    subjects: vec![format!("{SUBJECT_ROOT}.*")],
                    retention: RetentionPolicy::Limits,
                    storage: StorageType::File,
                    max_messages_per_subject: CHECKPOINTS_RETAINED,
                    allow_direct: true,
                    num_replicas: nats.replicas(),
                    ..Config::default()
                }
            }
            _ => return Err(NatsError::JetStream(describe(&error))),
        },
    };
    nats.jetstream()
        .get_or_create_stream(missing)
        .await
        .map_err(|error| NatsError::JetStream(describe(&error)))
}
