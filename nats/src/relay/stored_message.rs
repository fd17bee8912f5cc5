//! Reads single messages of the stream, including malformed ones.
//! The NATS client drops its connection on malformed headers, and takes a status header for one of the server.
//! The server stores both kinds of message.

use std::str::FromStr;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::response::Response;
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::connection::{STREAM, describe};
use crate::message::{EventHeaders, MessageError, MessageKey};
use crate::{Nats, NatsError};

/// A message of the stream.
#[derive(Debug, Clone)]
pub(crate) struct StoredMessage {
    pub(crate) sequence: u64,
    pub(crate) subject: String,
    /// An error if the headers are not in the format of NATS.
    pub(crate) headers: Result<HeaderMap, MessageError>,
    pub(crate) payload: Bytes,
}

impl StoredMessage {
    /// The headers of the event, or `None` for a message that the relay did not publish. Such messages are counted.
    pub(crate) fn published(&self, key: &MessageKey) -> Option<EventHeaders> {
        let headers = self.headers.as_ref().map_err(Clone::clone);
        match headers.and_then(|headers| EventHeaders::read(key, &self.subject, headers)) {
            Ok(published) => Some(published),
            Err(error) => {
                key.reject(&self.subject, Some(self.sequence), &error);
                None
            }
        }
    }
}

/// The message at a stream position, read from the stream's leader; `None` if there is none.
pub(crate) async fn message_at(nats: &Nats, sequence: u64) -> Result<Option<StoredMessage>, NatsError> {
    get(nats, &json!({"seq": sequence})).await
}

/// The first message at or after a stream position whose subject matches.
pub(crate) async fn message_from(
    nats: &Nats,
    sequence: u64,
    filter: &str,
) -> Result<Option<StoredMessage>, NatsError> {
    get(nats, &json!({"seq": sequence, "next_by_subj": filter})).await
}

#[derive(Deserialize)]
struct GetMessageResponse {
    message: RawMessage,
}

/// A message as JetStream's API returns it; bytes are base64.
#[derive(Deserialize)]
struct RawMessage {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: Option<String>,
    #[serde(default)]
    data: String,
}

async fn get(nats: &Nats, wanted: &Value) -> Result<Option<StoredMessage>, NatsError> {
    let call = format!("STREAM.MSG.GET.{STREAM}");
    let answer: Response<GetMessageResponse> =
        nats.jetstream().request(call, wanted).await.map_err(|error| api_error(&error))?;
    let raw = match answer {
        Response::Ok(answer) => answer.message,
        Response::Err { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => return Ok(None),
        Response::Err { error } => return Err(api_error(&error)),
    };
    let decode = |text: &str| {
        BASE64.decode(text).map_err(|_| NatsError::JetStream("a stored message is not in base64".to_owned()))
    };
    let headers = match raw.hdrs {
        Some(text) => headers(&decode(&text)?).ok_or(MessageError::Malformed),
        None => Ok(HeaderMap::new()),
    };
    let payload = decode(&raw.data)?.into();
    Ok(Some(StoredMessage { sequence: raw.seq, subject: raw.subject, headers, payload }))
}

/// Parses headers in the format of NATS (ADR-4 of its architecture). A status is rejected: no event has one.
fn headers(block: &[u8]) -> Option<HeaderMap> {
    let mut lines = std::str::from_utf8(block).ok()?.split("\r\n");
    if lines.next() != Some("NATS/1.0") {
        return None;
    }
    let mut headers = HeaderMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        headers.append(HeaderName::from_str(name).ok()?, HeaderValue::from_str(value.trim()).ok()?);
    }
    Some(headers)
}

pub(crate) fn api_error(error: &(dyn std::error::Error + 'static)) -> NatsError {
    NatsError::JetStream(describe(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_read_or_are_refused_and_nothing_panics() {
        let read = headers(b"NATS/1.0\r\na: 1\r\nb:2\r\na: 3 \r\n\r\n").expect("reads");
        let all = |name: &str| read.get_all(name).map(|value| value.as_str().to_owned()).collect::<Vec<_>>();
        assert_eq!((all("a"), all("b")), (vec!["1".to_owned(), "3".to_owned()], vec!["2".to_owned()]));
        for wrong in [
            b"".as_slice(),
            b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
            b"NATS/1.0\r\nno colon\r\n\r\n",
            b"NATS/1.0\r\na b: 1\r\n\r\n",
            b"NATS/1.0\r\na: \xff\r\n\r\n",
            b"NATS/1.0\r\na: 1\n2\r\n\r\n",
        ] {
            assert!(headers(wrong).is_none(), "{}", String::from_utf8_lossy(wrong));
        }
    }
}
