//! Encryption of data keys (with a key per tenant and epoch) and of segments (with data keys).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use schemas::engine::TenantId;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::KeyringError;

const KEY_BYTES: usize = 32;

/// A data key. Clones share one allocation, which is overwritten when the last one is dropped.
/// The bytes are written in place, because moving an array would leave copies on the stack.
#[derive(Clone)]
pub(crate) struct DataKey(Arc<Zeroizing<[u8; KEY_BYTES]>>);

impl DataKey {
    /// Generates a random key.
    pub(crate) fn generate() -> Self {
        Self::filled(|bytes| fill_random(bytes))
    }

    /// A key of these bytes, or `None` if they are not 32.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == KEY_BYTES).then(|| Self::filled(|key| key.copy_from_slice(bytes)))
    }

    fn filled(fill: impl FnOnce(&mut [u8; KEY_BYTES])) -> Self {
        let mut bytes = Arc::new(Zeroizing::new([0; KEY_BYTES]));
        fill(Arc::get_mut(&mut bytes).expect("no clone of a new key exists"));
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0[..]
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

/// The root key: 32 bytes from a file or the environment. Clones share one allocation.
/// It encrypts the data keys, so that the key store alone decrypts nothing.
#[derive(Clone)]
pub struct RootKey(Arc<Zeroizing<[u8; KEY_BYTES]>>);

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(..)")
    }
}

impl RootKey {
    /// Generates a random key.
    pub fn generate() -> Self {
        Self(DataKey::generate().0)
    }

    /// Parses 64 hexadecimal digits; surrounding white space is ignored.
    ///
    /// # Errors
    /// [`KeyringError::Config`] when the text is anything else.
    pub fn from_hex(text: &str) -> Result<Self, KeyringError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        hex::decode_to_slice(text.trim(), &mut key[..])
            .map_err(|_| KeyringError::Config("the root key must be 64 hexadecimal digits".to_owned()))?;
        Ok(Self(Arc::new(key)))
    }

    /// The key as 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        hex::encode(&self.0[..])
    }

    /// Identifies this root key, without revealing it.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let tag = self.derive(b"annals-root-fingerprint/v1\0");
        tag.as_ref().try_into().expect("HMAC-SHA-256 gives 32 bytes")
    }

    fn derive(&self, label: &[u8]) -> hmac::Tag {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0[..]), label)
    }

    fn wrap_key(&self, tenant: TenantId, epoch: i64) -> LessSafeKey {
        let label = [b"annals-wrap/v1\0", tenant.0.as_bytes().as_slice(), &epoch.to_be_bytes()].concat();
        cipher(self.derive(&label).as_ref())
    }

    pub(crate) fn wrap(&self, context: &KeyContext, key: &DataKey) -> Vec<u8> {
        seal(&self.wrap_key(context.tenant, context.epoch), &context.associated(), key.bytes())
    }

    pub(crate) fn unwrap(&self, context: &KeyContext, wrapped: &[u8]) -> Result<DataKey, KeyringError> {
        open(&self.wrap_key(context.tenant, context.epoch), &context.associated(), wrapped)
            .and_then(|key| DataKey::from_bytes(&key))
            .ok_or_else(|| KeyringError::Unavailable(format!("the key {} does not unwrap", context.key)))
    }
}

/// Identifies a root key.
pub(crate) type Fingerprint = [u8; 32];

/// The root keys of a process: the current one, and the previous one while data keys are still encrypted with it.
#[derive(Debug, Clone)]
pub struct RootKeys {
    current: (Fingerprint, RootKey),
    previous: Option<(Fingerprint, RootKey)>,
}

impl RootKeys {
    /// Data keys are to be encrypted with `current`. `previous` is needed until `rewrap` has finished.
    pub fn new(current: RootKey, previous: Option<RootKey>) -> Self {
        let known = |root: RootKey| (root.fingerprint(), root);
        Self { current: known(current), previous: previous.map(known) }
    }

    /// The fingerprint of the current root key.
    pub(crate) fn current(&self) -> Fingerprint {
        self.current.0
    }

    /// The root key with this fingerprint, if the process has it.
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

/// The length of the nonce at the start of a ciphertext, in bytes.
pub(crate) const NONCE_BYTES: usize = NONCE_LEN;

/// The identity of an encrypted data key.
#[derive(Clone, Copy)]
pub(crate) struct KeyContext {
    pub(crate) tenant: TenantId,
    pub(crate) epoch: i64,
    pub(crate) subject: Uuid,
    pub(crate) key: Uuid,
}

impl KeyContext {
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
pub(crate) fn segment_associated_data(event: Uuid, subject: Uuid, key: Uuid) -> Vec<u8> {
    [b"annals-sealed/v1\0".as_slice(), event.as_bytes(), subject.as_bytes(), key.as_bytes()].concat()
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill_random(&mut bytes);
    bytes
}

fn fill_random(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).expect("the system gives random bytes");
}

fn cipher(key: &[u8]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("the key has 32 bytes"))
}

/// The cipher of a data key. Its library overwrites the memory of a cipher when it frees it.
pub(crate) fn cipher_of(key: &DataKey) -> LessSafeKey {
    cipher(key.bytes())
}

/// Encrypts: returns nonce, ciphertext and tag. Nonces are random, which is safe up to 2^32 messages per key.
pub(crate) fn seal(key: &LessSafeKey, associated: &[u8], plain: &[u8]) -> Vec<u8> {
    let nonce: [u8; NONCE_LEN] = random();
    // Reserve space for the tag, because growing would leave a copy of the plain text in memory.
    let mut sealed = Vec::with_capacity(plain.len() + AES_256_GCM.tag_len());
    sealed.extend_from_slice(plain);
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), &mut sealed)
        .expect("payloads are far below the cipher's limit");
    [nonce.as_slice(), &sealed].concat()
}

/// Decrypts. Returns `None` when the key, the associated data or a byte differs.
pub(crate) fn open(key: &LessSafeKey, associated: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, rest) = sealed.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut plain = Zeroizing::new(rest.to_vec());
    let length = key.open_in_place(nonce, Aad::from(associated), &mut plain).ok()?.len();
    plain.truncate(length);
    Some(plain)
}
