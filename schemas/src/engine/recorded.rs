//! A recorded event, read from PostgreSQL or from JetStream.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Actor, DecodeError, Event, EventType, LogId, Metadata, RequestId, StreamName, TenantSlug};

/// An event of a tenant's log.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedEvent {
    /// The log of the position.
    pub log_id: LogId,
    /// Position in the tenant's log, from 1, without gaps.
    pub position: u64,
    /// The stream it belongs to.
    pub stream: StreamName,
    /// Version in the stream, from 1.
    pub version: u64,
    /// UUIDv7.
    pub event_id: Uuid,
    /// Its type, with the schema version.
    pub event_type: EventType,
    /// UTC with microseconds; never earlier than the time of the previous position.
    pub recorded_at: DateTime<Utc>,
    /// The payload exactly as stored: JSON.
    pub payload: Bytes,
    /// Its metadata.
    pub metadata: Metadata,
}

impl RecordedEvent {
    /// Decodes the payload as `E`; `None` if `E` does not have the type.
    ///
    /// # Errors
    /// [`DecodeError`] if the payload does not match the type.
    pub fn decode<E: Event>(&self) -> Result<Option<E>, DecodeError> {
        E::decode(self.event_type.as_str(), &self.payload)
    }

    /// The event as a CloudEvent of the given tenant; `data` keeps the stored bytes.
    ///
    /// # Errors
    /// [`DecodeError`] if the stored payload is not JSON.
    pub fn to_cloud_event(&self, tenant: &TenantSlug) -> Result<CloudEvent, DecodeError> {
        let data: Box<RawValue> = serde_json::from_slice(&self.payload)
            .map_err(|source| DecodeError { event_type: self.event_type.to_string(), source })?;
        Ok(CloudEvent {
            specversion: "1.0",
            id: self.event_id,
            source: format!("/tenants/{tenant}"),
            event_type: self.event_type.clone(),
            subject: self.stream.clone(),
            time: timestamp(self.recorded_at),
            datacontenttype: "application/json",
            data,
            tenantid: tenant.clone(),
            logid: self.log_id,
            position: self.position.to_string(),
            streamversion: self.version.to_string(),
            correlationid: self.metadata.correlation_id,
            causationid: self.metadata.causation_id,
            requestid: self.metadata.request_id.clone(),
            actor: self.metadata.actor.clone(),
        })
    }
}

/// An event as CloudEvents 1.0 JSON (structured mode), in the attribute order that people read.
#[derive(Debug, Clone, Serialize)]
pub struct CloudEvent {
    /// `1.0`.
    pub specversion: &'static str,
    /// The event's id.
    pub id: Uuid,
    /// The tenant as a URI reference.
    pub source: String,
    /// The event type with its schema version.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// The stream.
    pub subject: StreamName,
    /// When it was recorded (RFC 3339, UTC, microseconds).
    pub time: String,
    /// The media type of `data`.
    pub datacontenttype: &'static str,
    /// The payload.
    pub data: Box<RawValue>,
    /// The tenant's slug.
    pub tenantid: TenantSlug,
    /// The log of the position.
    pub logid: LogId,
    /// The position in the log, as decimal text.
    pub position: String,
    /// The version in the stream, as decimal text.
    pub streamversion: String,
    /// Shared by all events and commands that one outside request caused.
    pub correlationid: Uuid,
    /// The event that caused the command, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub causationid: Option<Uuid>,
    /// The request with the command, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requestid: Option<RequestId>,
    /// The actor.
    pub actor: Actor,
}

/// A time as RFC 3339 in UTC with microseconds. The product writes all times in this form.
pub fn timestamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}
