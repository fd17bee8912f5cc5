//! The MAC of a message (ADR 25). Every client with permission for `events.>` can publish any message there. A message
//! is accepted only if its MAC was made with the deployment key.
//!
//! The header holds two tags. The first covers the payload. The second covers the subject, all other headers and the
//! first tag. So a reader of the headers can verify them without the payload, and a reader of the whole message can
//! verify both.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use schemas::engine::LogId;
use store::{Causes, DeploymentKey, MacKey};

use super::error::MessageError;

/// `v1.<key id>.<tag of the payload>.<tag of the message>`
pub(crate) const MAC: HeaderName = HeaderName::from_static("annals-mac");
const MAC_VERSION: &str = "v1";
/// Bytes of a tag, the minimum by RFC 2104.
const TAG_BYTES: usize = 16;
/// Headers with this prefix belong to the server, which adds some. Only the message id is set by the relay.
const SERVER_HEADER_PREFIX: &str = "Nats-";
/// How often rejected messages are logged, with their number.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Signs the messages of a deployment and verifies them. Cheap to clone.
#[derive(Clone)]
pub struct MessageKey(Arc<Keys>);

struct Keys {
    id: String,
    messages: MacKey,
    payloads: MacKey,
    message_ids: MacKey,
    reports: Mutex<Reports>,
}

#[derive(Default)]
struct Reports {
    last: Option<Instant>,
    unreported: u64,
}

impl std::fmt::Debug for MessageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MessageKey").field("id", &self.0.id).finish_non_exhaustive()
    }
}

impl MessageKey {
    /// The key derived from the deployment key.
    pub fn of(deployment: &DeploymentKey) -> Self {
        Self(Arc::new(Keys {
            id: hex::encode(&deployment.mac("message key id", &[])[..4]),
            messages: deployment.sub_key("message"),
            payloads: deployment.sub_key("message payload"),
            message_ids: deployment.sub_key("message id"),
            reports: Mutex::default(),
        }))
    }

    /// The id by which JetStream recognises a duplicate.
    /// The stream epoch is raised before a republish: JetStream acknowledges an id that it saw within the duplicate
    /// window without storing the message, even if the first message is lost.
    /// The id is a MAC, so that another client cannot use it first and suppress the event.
    pub fn message_id(&self, log: LogId, position: u64, stream_epoch: u32) -> String {
        let parts = [log.0.as_bytes().as_slice(), &position.to_be_bytes(), &stream_epoch.to_be_bytes()];
        encoded(self.0.message_ids.mac(parts))
    }

    /// The MAC header of a message with these headers.
    pub(super) fn header(&self, subject: &str, headers: &HeaderMap, payload: &[u8]) -> String {
        let payload_tag = encoded(self.0.payloads.mac([payload]));
        let tag = encoded(self.0.messages.mac([covered_bytes(subject, headers, &payload_tag).as_slice()]));
        format!("{MAC_VERSION}.{}.{payload_tag}.{tag}", self.0.id)
    }

    /// Verifies that the relay wrote these headers for this subject, and for this payload if one is given.
    ///
    /// # Errors
    /// [`MessageError`] if the MAC is missing, has an unknown key, or does not match.
    pub(super) fn verify(
        &self,
        subject: &str,
        headers: &HeaderMap,
        payload: Option<&[u8]>,
    ) -> Result<(), MessageError> {
        let mut given = headers.get_all(MAC);
        let header = given.next().ok_or(MessageError::NoMac)?.as_str();
        if given.next().is_some() {
            return Err(MessageError::MacDiffers);
        }
        let mut fields = header.split('.');
        let fields = [fields.next(), fields.next(), fields.next(), fields.next(), fields.next()];
        let [Some(MAC_VERSION), Some(key), Some(payload_tag), Some(tag), None] = fields else {
            return Err(MessageError::UnknownKey);
        };
        if key != self.0.id {
            return Err(MessageError::UnknownKey);
        }
        let covered_bytes = covered_bytes(subject, headers, payload_tag);
        if !is_tag(tag, |tag| self.0.messages.verifies([covered_bytes.as_slice()], tag)) {
            return Err(MessageError::MacDiffers);
        }
        match payload {
            Some(payload) if !is_tag(payload_tag, |tag| self.0.payloads.verifies([payload], tag)) => {
                Err(MessageError::MacDiffers)
            }
            _ => Ok(()),
        }
    }

    /// Counts a dropped message, and logs it at most once per `REPORT_INTERVAL`.
    pub(crate) fn reject(&self, subject: &str, sequence: Option<u64>, error: &MessageError) {
        metrics::counter!("annals_broker_messages_rejected_total", "reason" => error.reason()).increment(1);
        // The code that holds the lock cannot panic.
        let mut reports = self.0.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.unreported += 1;
        if reports.last.is_some_and(|last| last.elapsed() < REPORT_INTERVAL) {
            return;
        }
        reports.last = Some(Instant::now());
        let rejected = std::mem::take(&mut reports.unreported);
        tracing::warn!(error = %Causes(error), subject, sequence, rejected, "messages on EVENTS are not the relay's; they are dropped");
    }
}

/// The bytes that the tag of a message covers, each part prefixed by its length. Headers are ordered by name; the
/// values of one name keep their order.
fn covered_bytes(subject: &str, headers: &HeaderMap, payload_tag: &str) -> Vec<u8> {
    let mut named: Vec<(&[u8], &Vec<HeaderValue>)> = Vec::with_capacity(headers.len());
    for (name, values) in headers.iter() {
        if is_covered(name) {
            named.push((name.as_ref(), values));
        }
    }
    named.sort_unstable_by_key(|(name, _)| *name);
    let mut covered_bytes = Vec::with_capacity(1_024);
    let mut cover = |part: &[u8]| {
        covered_bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        covered_bytes.extend_from_slice(part);
    };
    cover(subject.as_bytes());
    cover(payload_tag.as_bytes());
    for (name, values) in named {
        for value in values {
            cover(name);
            cover(value.as_str().as_bytes());
        }
    }
    covered_bytes
}

fn is_covered(name: &HeaderName) -> bool {
    *name == async_nats::header::NATS_MESSAGE_ID
        || (*name != MAC && !bytes(name).starts_with(SERVER_HEADER_PREFIX.as_bytes()))
}

fn bytes(name: &HeaderName) -> &[u8] {
    name.as_ref()
}

fn encoded(mac: [u8; 32]) -> String {
    BASE64.encode(&mac[..TAG_BYTES])
}

fn is_tag(text: &str, verifies: impl FnOnce(&[u8]) -> bool) -> bool {
    BASE64.decode(text).is_ok_and(|tag| tag.len() == TAG_BYTES && verifies(&tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: &str = "events.acme.a.b.c.v1";

    fn key() -> MessageKey {
        MessageKey::of(&DeploymentKey::from_hex(&"ab".repeat(32)).expect("a key"))
    }

    fn signed(key: &MessageKey) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("ce-position", "7");
        headers.insert("ce-actor", "a");
        headers.insert(async_nats::header::NATS_MESSAGE_ID, "x");
        headers.insert(MAC, key.header(SUBJECT, &headers, b"{}"));
        headers
    }

    #[test]
    fn a_message_verifies_with_its_payload_and_without() {
        let (key, headers) = (key(), signed(&key()));
        assert_eq!(key.verify(SUBJECT, &headers, Some(b"{}")), Ok(()));
        assert_eq!(key.verify(SUBJECT, &headers, None), Ok(()));
        let mut delivered = headers;
        delivered.insert("Nats-Msg-Size", "2");
        assert_eq!(key.verify(SUBJECT, &delivered, None), Ok(()), "the server adds headers of its own");
    }

    #[test]
    fn whatever_is_changed_shows() {
        let (key, headers) = (key(), signed(&key()));
        let differs = Err(MessageError::MacDiffers);
        assert_eq!(key.verify("events.other.a.b.c.v1", &headers, None), differs);
        assert_eq!(key.verify(SUBJECT, &headers, Some(b"{ }")), differs);
        let changed = |change: &dyn Fn(&mut HeaderMap)| {
            let mut headers = headers.clone();
            change(&mut headers);
            key.verify(SUBJECT, &headers, Some(b"{}"))
        };
        assert_eq!(changed(&|headers| headers.insert("ce-position", "8")), differs);
        assert_eq!(changed(&|headers| headers.append("ce-position", "7")), differs);
        assert_eq!(changed(&|headers| headers.insert("ce-causationid", "1")), differs);
        assert_eq!(changed(&|headers| headers.insert("Ce-Position", "7")), differs);
        assert_eq!(changed(&|headers| headers.insert("Nats-Msg-Id", "y")), differs);
        assert_eq!(changed(&|headers| headers.append(MAC, "v1.a.b.c")), differs);
        let without = |name: &str| {
            let kept = headers.iter().filter(|(kept, _)| bytes(kept) != name.as_bytes());
            let kept: HeaderMap =
                kept.filter_map(|(name, values)| Some((name.clone(), values.first()?.clone()))).collect();
            key.verify(SUBJECT, &kept, None)
        };
        assert_eq!(without("ce-actor"), differs);
        assert_eq!(without("annals-mac"), Err(MessageError::NoMac));
    }

    #[test]
    fn a_header_of_another_form_or_key_is_refused() {
        let (key, headers) = (key(), signed(&key()));
        let value = headers.get(MAC).expect("signed").as_str().to_owned();
        let with = |value: &str| {
            let mut headers = headers.clone();
            headers.insert(MAC, value);
            key.verify(SUBJECT, &headers, Some(b"{}"))
        };
        assert_eq!(with(&value), Ok(()));
        let other = MessageKey::of(&DeploymentKey::from_hex(&"cd".repeat(32)).expect("a key"));
        let forged = signed(&other);
        assert_eq!(key.verify(SUBJECT, &forged, None), Err(MessageError::UnknownKey));
        // The other key's tags under the name of this one.
        let parts: Vec<&str> = forged.get(MAC).expect("signed").as_str().split('.').collect();
        assert_eq!(
            with(&format!("v1.{}.{}.{}", key.0.id, parts[2], parts[3])),
            Err(MessageError::MacDiffers)
        );
        for wrong in ["", "v1", "v2.a.b.c", &format!("{value}.x"), &value.replacen("v1", "v9", 1)] {
            assert_eq!(with(wrong), Err(MessageError::UnknownKey), "{wrong}");
        }
        let (head, tag) = value.rsplit_once('.').expect("fields");
        for short in [String::new(), tag[..8].to_owned(), format!("{tag}AA")] {
            assert_eq!(with(&format!("{head}.{short}")), Err(MessageError::MacDiffers), "{short}");
        }
    }

    #[test]
    fn message_ids_differ_and_follow_from_the_key() {
        let (key, log) = (key(), LogId(uuid::Uuid::from_u128(1)));
        let id = key.message_id(log, 1, 0);
        assert_eq!(id, key.message_id(log, 1, 0));
        assert!(![key.message_id(log, 2, 0), key.message_id(log, 1, 1)].contains(&id));
        let other = MessageKey::of(&DeploymentKey::from_hex(&"cd".repeat(32)).expect("a key"));
        assert_ne!(id, other.message_id(log, 1, 0));
    }
}
