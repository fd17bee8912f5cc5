//! The ciphers: data keys wrapped under a key per tenant and epoch, and segments sealed under data keys.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use schemas::engine::TenantId;
use uuid::Uuid;

use crate::KeyringError;

/// A key that segments are sealed under.
pub(crate) type DataKey = [u8; 32];

/// The secret above all keys, from a file or the environment: 32 bytes. It wraps what the file of keys holds, so that the
/// file alone opens nothing.
#[derive(Clone)]
pub struct RootKey([u8; 32]);

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(..)")
    }
}

impl RootKey {
    /// A new random key.
    pub fn generate() -> Self {
        Self(random())
    }

    /// A key from 64 hexadecimal digits, surrounding white space aside.
    pub fn from_hex(text: &str) -> Result<Self, KeyringError> {
        let mut key = [0; 32];
        hex::decode_to_slice(text.trim(), &mut key)
            .map_err(|_| KeyringError::Config("the root key must be 64 hexadecimal digits".to_owned()))?;
        Ok(Self(key))
    }

    /// The key as 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// Tells this root key from others and nothing else of it.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let tag = self.derive(b"annals-root-fingerprint/v1\0");
        tag.as_ref().try_into().expect("HMAC-SHA-256 gives 32 bytes")
    }

    fn derive(&self, label: &[u8]) -> hmac::Tag {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0), label)
    }

    fn wrap_key(&self, tenant: TenantId, epoch: i64) -> LessSafeKey {
        let label = [b"annals-wrap/v1\0", tenant.0.as_bytes().as_slice(), &epoch.to_be_bytes()].concat();
        cipher(self.derive(&label).as_ref())
    }

    pub(crate) fn wrap(&self, place: &Place, key: &DataKey) -> Vec<u8> {
        seal(&self.wrap_key(place.tenant, place.epoch), &place.associated(), key)
    }

    pub(crate) fn unwrap(&self, place: &Place, wrapped: &[u8]) -> Result<DataKey, KeyringError> {
        open(&self.wrap_key(place.tenant, place.epoch), &place.associated(), wrapped)
            .and_then(|key| key.try_into().ok())
            .ok_or_else(|| KeyringError::Unavailable(format!("the key {} does not unwrap", place.key)))
    }
}

/// What tells root keys apart.
pub(crate) type Fingerprint = [u8; 32];

/// The root keys that a process has: the one that keys are to be wrapped under, and the one before it while some still are.
#[derive(Debug, Clone)]
pub struct RootKeys {
    current: (Fingerprint, RootKey),
    previous: Option<(Fingerprint, RootKey)>,
}

impl RootKeys {
    /// `current` is to wrap all keys; what `previous` has wrapped is good until `rewrap` is through.
    pub fn new(current: RootKey, previous: Option<RootKey>) -> Self {
        let known = |root: RootKey| (root.fingerprint(), root);
        Self { current: known(current), previous: previous.map(known) }
    }

    /// The fingerprint of the root key that all keys are to be wrapped under.
    pub(crate) fn current(&self) -> Fingerprint {
        self.current.0
    }

    /// The root key with a fingerprint.
    pub(crate) fn find(&self, fingerprint: &Fingerprint) -> Option<&RootKey> {
        let known = [Some(&self.current), self.previous.as_ref()];
        known.into_iter().flatten().find(|(known, _)| known == fingerprint).map(|(_, root)| root)
    }
}

impl From<RootKey> for RootKeys {
    fn from(root: RootKey) -> Self {
        Self::new(root, None)
    }
}

/// Bytes of the nonce that something sealed begins with.
pub(crate) const NONCE: usize = NONCE_LEN;

/// What a wrapped key belongs to.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) tenant: TenantId,
    pub(crate) epoch: i64,
    pub(crate) subject: Uuid,
    pub(crate) key: Uuid,
}

impl Place {
    fn associated(&self) -> Vec<u8> {
        [
            b"annals-key/v1\0".as_slice(),
            self.tenant.0.as_bytes(),
            self.subject.as_bytes(),
            self.key.as_bytes(),
        ]
        .concat()
    }
}

/// The associated data of a segment.
pub(crate) fn segment_data(event: Uuid, subject: Uuid, key: Uuid) -> Vec<u8> {
    [b"annals-sealed/v1\0".as_slice(), event.as_bytes(), subject.as_bytes(), key.as_bytes()].concat()
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

pub(crate) fn cipher(key: &[u8]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("the key has 32 bytes"))
}

/// Nonce, ciphertext and tag. Nonces are random: a key seals far fewer than the 2^32 messages that this allows.
pub(crate) fn seal(key: &LessSafeKey, associated: &[u8], plain: &[u8]) -> Vec<u8> {
    let nonce: [u8; NONCE_LEN] = random();
    let mut sealed = plain.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), &mut sealed)
        .expect("payloads are far below the cipher's limit");
    [nonce.as_slice(), &sealed].concat()
}

/// What was sealed, or `None` where key, associated data or a byte is another.
pub(crate) fn open(key: &LessSafeKey, associated: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, rest) = sealed.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut plain = rest.to_vec();
    let length = key.open_in_place(nonce, Aad::from(associated), &mut plain).ok()?.len();
    plain.truncate(length);
    Some(plain)
}
