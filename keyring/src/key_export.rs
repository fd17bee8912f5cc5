//! Exports data keys, encrypted to the public key of a recipient in the age format, and opens such exports.
//! An erasure does not reach exported keys.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::time::Instant;

use age::secrecy::ExposeSecret;
use age::x25519;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use schemas::engine::TenantId;
use schemas::engine::sealed::{self, SEALED};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::crypto::DataKey;
use crate::key::KeyState;
use crate::{Keyring, KeyringError, payload};

/// Maximum keys per encrypted part.
const CHUNK_KEYS_MAX: usize = 1_000;
/// Maximum bytes of a key in the JSON of a part.
const KEY_JSON_BYTES_MAX: usize = 180;
/// The encryption buffers 64 KiB, and does not clear that buffer when it frees it.
/// So 64 KiB of white space after the keys overwrite it.
static PADDING: [u8; 64 * 1024] = [b' '; 64 * 1024];

/// The public key of a recipient: `age1...`.
#[derive(Clone)]
pub struct Recipient(x25519::Recipient);

/// The private key of a recipient.
pub struct Identity(x25519::Identity);

/// An invalid age key, or exported keys that do not decrypt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyExportError {
    /// Not an age public key.
    #[error("must be an age public key (age1...)")]
    Recipient,
    /// Not exactly one age private key.
    #[error("the file holds no single age private key (AGE-SECRET-KEY-1...)")]
    Identity,
    /// Encrypted to another recipient, or damaged.
    #[error("the keys were encrypted to somebody else, or are damaged")]
    Undecryptable,
}

/// The JSON form of an exported key.
#[derive(Deserialize)]
struct ExportedKey {
    subject: Uuid,
    key: Uuid,
    data_key: Zeroizing<String>,
}

/// Exported keys, decrypted, in memory.
#[derive(Default)]
pub struct ExportedKeys(HashMap<(Uuid, Uuid), DataKey>);

impl FromStr for Recipient {
    type Err = KeyExportError;

    fn from_str(text: &str) -> Result<Self, KeyExportError> {
        text.parse().map(Self).map_err(|_| KeyExportError::Recipient)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({})", self.0)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(..)")
    }
}

impl fmt::Debug for ExportedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExportedKeys({})", self.0.len())
    }
}

impl Identity {
    /// Generates a random private key.
    pub fn generate() -> Self {
        Self(x25519::Identity::generate())
    }

    /// Parses the text of a key file: one line, besides comments.
    ///
    /// # Errors
    /// [`KeyExportError::Identity`] when the text has no age private key, or has more than that one line.
    pub fn from_file_text(text: &str) -> Result<Self, KeyExportError> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        match (lines.next().map(str::parse), lines.next()) {
            (Some(Ok(identity)), None) => Ok(Self(identity)),
            _ => Err(KeyExportError::Identity),
        }
    }

    /// The text of a key file, in the form of `age-keygen`.
    pub fn to_file_text(&self) -> String {
        format!("# public key: {}\n{}\n", self.recipient(), self.0.to_string().expose_secret())
    }

    /// The public key of this private key.
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public())
    }
}

impl Keyring {
    /// Exports the keys of the sealed segments in these payloads, in encrypted parts of limited size.
    /// Keys of subjects that are erased or about to be are left out.
    ///
    /// # Errors
    /// [`KeyringError::KeyMissing`] when a key is neither stored nor destroyed.
    /// Without the error, its recipient would take the subject for erased.
    pub async fn export_keys(
        &self,
        tenant: TenantId,
        payloads: impl Iterator<Item = &[u8]>,
        to: &Recipient,
    ) -> Result<Vec<Vec<u8>>, KeyringError> {
        let (mut subjects, mut named) = (HashSet::new(), HashSet::new());
        for bytes in payloads.filter(|bytes| payload::contains_member(bytes, SEALED)) {
            let Ok(mut document) = serde_json::from_slice(bytes) else { continue };
            for segment in payload::segments(&mut document) {
                subjects.insert((tenant, segment.subject));
                named.insert((segment.subject, segment.key));
            }
        }
        if subjects.is_empty() {
            return Ok(Vec::new());
        }
        // Do not use the cache, which may have a key for one lease after its fence; an export cannot be revoked.
        let begun = Instant::now();
        let mut states = self.load(subjects).await?;
        if begun.elapsed() > self.lease() {
            return Err(KeyringError::Unavailable(
                "keys took longer to load than their lease lasts".to_owned(),
            ));
        }
        let mut handed = Vec::with_capacity(named.len());
        for (subject, key) in named {
            match states.remove(&(tenant, subject)) {
                Some(KeyState::Live(live, data_key)) if live == key => handed.push((subject, key, data_key)),
                Some(KeyState::Erased) => drop(states.insert((tenant, subject), KeyState::Erased)),
                _ => return Err(KeyringError::key_missing(subject, key)),
            }
        }
        handed.chunks(CHUNK_KEYS_MAX).map(|piece| encrypted(piece, to)).collect()
    }
}

fn encrypted(piece: &[(Uuid, Uuid, DataKey)], to: &Recipient) -> Result<Vec<u8>, KeyringError> {
    // The vector never grows, so that no copy of its content is left in memory.
    let mut text = Zeroizing::new(Vec::with_capacity(2 + piece.len() * KEY_JSON_BYTES_MAX));
    let room = text.capacity();
    for (index, (subject, key, data_key)) in piece.iter().enumerate() {
        let comma = if index == 0 { '[' } else { ',' };
        write!(text, r#"{comma}{{"subject":"{subject}","key":"{key}","data_key":""#)
            .expect("a vector takes it");
        let begin = text.len();
        text.resize(begin + 44, 0);
        let written = BASE64_STANDARD.encode_slice(data_key.bytes(), &mut text[begin..]);
        debug_assert_eq!(written, Ok(44));
        text.extend_from_slice(br#""}"#);
    }
    text.push(b']');
    debug_assert_eq!(text.capacity(), room);
    let failed = |error: &dyn fmt::Display| KeyringError::Invalid(error.to_string());
    let recipients = std::iter::once(&to.0 as &dyn age::Recipient);
    let encryptor = age::Encryptor::with_recipients(recipients).map_err(|error| failed(&error))?;
    let mut sealed = Vec::new();
    let mut writer = encryptor.wrap_output(&mut sealed).map_err(|error| failed(&error))?;
    writer.write_all(&text).and_then(|()| writer.write_all(&PADDING)).map_err(|error| failed(&error))?;
    writer.finish().map_err(|error| failed(&error))?;
    Ok(sealed)
}

impl ExportedKeys {
    /// Decrypts one encrypted part and adds its keys.
    ///
    /// # Errors
    /// [`KeyExportError::Undecryptable`] when the part is encrypted to another recipient, or damaged.
    pub fn add(&mut self, encrypted: &[u8], identity: &Identity) -> Result<(), KeyExportError> {
        let text =
            Zeroizing::new(age::decrypt(&identity.0, encrypted).map_err(|_| KeyExportError::Undecryptable)?);
        let handed: Vec<ExportedKey> =
            serde_json::from_slice(&text).map_err(|_| KeyExportError::Undecryptable)?;
        for ExportedKey { subject, key, data_key } in handed {
            let data_key = BASE64_STANDARD.decode(data_key.as_str()).ok().map(Zeroizing::new);
            let data_key = data_key.and_then(|bytes| DataKey::from_bytes(&bytes));
            self.0.insert((subject, key), data_key.ok_or(KeyExportError::Undecryptable)?);
        }
        Ok(())
    }

    /// Drops all keys.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Decrypts a payload as readers of personal data see it.
    /// Segments without a key here are marked as erased. A segment that its key does not decrypt stays sealed.
    pub fn open(&self, event: Uuid, mut document: Value) -> Value {
        payload::replace(&mut document, SEALED, &mut |sealed| {
            let segment = payload::segment_of(sealed)?;
            match self.0.get(&(segment.subject, segment.key)) {
                Some(key) => {
                    payload::open(&segment, event, key).map(|value| payload::opened(segment.subject, value))
                }
                None => Some(payload::erased(segment.subject)),
            }
        });
        sealed::spread(&mut document);
        document
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use schemas::engine::{StreamName, ids};
    use serde_json::json;

    use super::*;
    use crate::RootKey;

    const TENANT: TenantId = TenantId(Uuid::from_u128(5));

    #[tokio::test]
    async fn who_holds_the_private_key_opens_and_who_was_erased_has_no_key() {
        let folder = tempfile::tempdir().expect("a folder");
        // The lease never ends, so the test fails if the export uses cached keys.
        let keyring =
            Keyring::open(folder.path(), RootKey::generate().into(), Duration::from_hours(1)).expect("opens");
        let mut payloads = Vec::new();
        for id in 0..2_500_u128 {
            let stream = StreamName::new("crm.customer", Uuid::from_u128(id));
            let payload = json!({"$open": {"value": {"name": format!("Person {id}")}}, "n": 1}).to_string();
            let event = ids::new_id();
            payloads.push((
                event,
                keyring.seal(TENANT, &stream, event, payload.into()).await.expect("seals").payload,
            ));
        }
        keyring.fence(TENANT, Uuid::from_u128(7)).await.expect("fences");
        let (auditor, other) = (Identity::generate(), Identity::generate());
        let bytes = || payloads.iter().map(|(_, payload)| payload.as_ref());
        let pieces = keyring.export_keys(TENANT, bytes(), &auditor.recipient()).await.expect("hands over");
        assert_eq!(pieces.len(), 3);
        let mut keys = ExportedKeys::default();
        assert_eq!(keys.add(&pieces[0], &other), Err(KeyExportError::Undecryptable));
        for piece in &pieces {
            keys.add(piece, &auditor).expect("opens");
        }
        let opened =
            |at: usize, event: Uuid| keys.open(event, serde_json::from_slice(&payloads[at].1).expect("JSON"));
        assert_eq!(opened(3, payloads[3].0), json!({"name": "Person 3", "n": 1}));
        assert_eq!(opened(7, payloads[7].0), json!({"$erased": {"subject": Uuid::from_u128(7)}, "n": 1}));
        assert!(opened(3, payloads[4].0).get("$sealed").is_some(), "it was sealed for another event");
        // A missing key is not a destroyed key: without the error, the recipient would take the subject for erased.
        let elsewhere =
            keyring.export_keys(TenantId(Uuid::from_u128(6)), bytes(), &auditor.recipient()).await;
        assert!(matches!(elsewhere, Err(KeyringError::KeyMissing { .. })), "{elsewhere:?}");
    }

    #[test]
    fn keys_of_people_are_read_from_the_files_that_age_writes() {
        let identity = Identity::generate();
        let read = Identity::from_file_text(&identity.to_file_text()).expect("reads");
        assert_eq!(read.recipient().to_string(), identity.recipient().to_string());
        assert!(identity.recipient().to_string().parse::<Recipient>().is_ok());
        for wrong in ["", "age1", "ssh-ed25519 AAAA", "AGE-SECRET-KEY-1"] {
            assert!(
                wrong.parse::<Recipient>().is_err() && Identity::from_file_text(wrong).is_err(),
                "{wrong}"
            );
        }
        assert!(!format!("{identity:?}").contains("SECRET"));
    }
}
