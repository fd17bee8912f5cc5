//! Publishes the signed checkpoints of the tenants' logs on `checkpoints.<tenant>`, so that other parties can store
//! them.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{GetStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::stream::{Config, LastRawMessageErrorKind, RetentionPolicy, StorageType, Stream};
use schemas::engine::TenantSlug;
use store::Replacement;

use crate::connection::describe;
use crate::{Nats, NatsError};

/// The stream of checkpoints.
pub const STREAM: &str = "CHECKPOINTS";
/// The first token of the subjects.
pub const SUBJECT_ROOT: &str = "checkpoints";
/// Checkpoints retained for each tenant: about half an hour of a busy tenant.
const CHECKPOINTS_RETAINED: i64 = 1_000;

/// Publishes a tenant's newest checkpoint.
///
/// # Errors
/// [`NatsError`] if NATS is unreachable or rejects the message.
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
        // The stream does not exist.
        Err(error) if error.kind() == PublishErrorKind::StreamNotFound => {
            stream(nats).await?;
            send().await
        }
        sent => sent,
    };
    sent.map_err(|error| NatsError::JetStream(describe(&error)))
}

/// The last published checkpoint of a tenant.
///
/// # Errors
/// [`NatsError`] if NATS is unreachable or the stream cannot be read.
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

/// Adds to each replacement the checkpoint that was last published for its tenant. The store verifies it.
/// If JetStream does not answer, the remaining replacements get no checkpoint.
///
/// # Errors
/// [`NatsError`] if NATS is unreachable or the stream cannot be read.
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

/// The stream; it is created if it is missing.
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
