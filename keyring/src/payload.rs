//! Finds the open and sealed parts of a payload, and replaces them.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use schemas::engine::sealed::{ERASED, OPEN, SEALED, SealedSegment};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::crypto::{self, DataKey, segment_associated_data};

const ALGORITHM: &str = "A256GCM";
const NONCE_BYTES: usize = 12;

/// Whether a payload may have the member. JSON escapes quotes in texts, so no member is missed.
pub(crate) fn contains_member(payload: &[u8], member: &str) -> bool {
    let quote_identifier = format!("\"{member}\"");
    payload.contains(&b'$')
        && payload.windows(quote_identifier.len()).any(|window| window == quote_identifier.as_bytes())
}

/// Calls `change` with the value of every `member` in the payload, outer objects first.
/// The returned name and value replace the member; `None` keeps it.
pub(crate) fn replace(
    payload: &mut Value,
    member: &str,
    change: &mut impl FnMut(&Value) -> Option<(&'static str, Value)>,
) {
    match payload {
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, member, change)),
        Value::Object(fields) => {
            if let Some((name, value)) = fields.get(member).and_then(&mut *change) {
                fields.remove(member);
                fields.insert(name.to_owned(), value);
            }
            let rest = fields.iter_mut().filter(|(name, _)| ![SEALED, OPEN, ERASED].contains(&name.as_str()));
            rest.for_each(|(_, value)| replace(value, member, change));
        }
        _ => {}
    }
}

/// The subjects of the open parts. `None` means the subject with the id of the stream.
pub(crate) fn subjects(payload: &mut Value) -> Vec<Option<Uuid>> {
    let mut found = Vec::new();
    replace(payload, OPEN, &mut |open| {
        found.push(subject_of(open));
        None
    });
    found.sort_unstable();
    found.dedup();
    found
}

pub(crate) fn subject_of(open: &Value) -> Option<Uuid> {
    open.get("subject").and_then(Value::as_str).and_then(|text| text.parse().ok())
}

/// The sealed segments of a payload.
pub(crate) fn segments(payload: &mut Value) -> Vec<SealedSegment> {
    let mut found = Vec::new();
    replace(payload, SEALED, &mut |sealed| {
        found.extend(segment_of(sealed));
        None
    });
    found
}

pub(crate) fn segment_of(sealed: &Value) -> Option<SealedSegment> {
    serde_json::from_value(sealed.clone()).ok()
}

/// Encrypts a value for an event.
pub(crate) fn seal(value: &Value, event: Uuid, subject: Uuid, key: Uuid, data_key: &DataKey) -> Value {
    let plain = serde_json::to_vec(value).expect("JSON serialises");
    let sealed =
        crypto::seal(&crypto::cipher_of(data_key), &segment_associated_data(event, subject, key), &plain);
    let (nonce, ct) = sealed.split_at(NONCE_BYTES);
    let segment = SealedSegment {
        alg: ALGORITHM.to_owned(),
        subject,
        key,
        nonce: BASE64_STANDARD.encode(nonce),
        ct: BASE64_STANDARD.encode(ct),
    };
    serde_json::to_value(segment).expect("a segment serialises")
}

/// Decrypts a segment, or returns `None` when it was not sealed with these parameters.
pub(crate) fn open(segment: &SealedSegment, event: Uuid, data_key: &DataKey) -> Option<Value> {
    if segment.alg != ALGORITHM {
        return None;
    }
    let nonce = BASE64_STANDARD.decode(&segment.nonce).ok().filter(|nonce| nonce.len() == NONCE_BYTES)?;
    let ct = BASE64_STANDARD.decode(&segment.ct).ok()?;
    let associated = segment_associated_data(event, segment.subject, segment.key);
    let plain = crypto::open(&crypto::cipher_of(data_key), &associated, &[nonce, ct].concat())?;
    serde_json::from_slice(&plain).ok()
}

/// The payload member for a decrypted segment.
pub(crate) fn opened(subject: Uuid, value: Value) -> (&'static str, Value) {
    let mut open = Map::new();
    open.insert("subject".to_owned(), json!(subject));
    open.insert("value".to_owned(), value);
    (OPEN, Value::Object(open))
}

/// The payload member for a segment whose key was destroyed.
pub(crate) fn erased(subject: Uuid) -> (&'static str, Value) {
    (ERASED, json!({ "subject": subject }))
}
