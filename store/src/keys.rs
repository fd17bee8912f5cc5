//! The deployment key: all keys of keyed digests are derived from it.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use hmac::{Hmac, KeyInit, Mac};
use schemas::engine::TenantId;
use sha2::Sha256;

use crate::StoreError;

/// A 32-byte secret of the deployment, from a file or the environment.
/// Without it, reservations, receipts and tokens are unusable. It is never logged or stored in the database.
#[derive(Clone)]
pub struct DeploymentKey([u8; 32]);

impl fmt::Debug for DeploymentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeploymentKey(..)")
    }
}

impl DeploymentKey {
    /// The keyed digest of a reserved value, so that the table does not reveal the value.
    pub(crate) fn reservation_digest(&self, tenant: TenantId, kind: &str, value: &str) -> [u8; 32] {
        self.mac("reservation", &[tenant.0.as_bytes(), kind.as_bytes(), value.as_bytes()])
    }

    /// Generates a random key.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// Parses 64 hexadecimal digits; surrounding white space is ignored.
    ///
    /// # Errors
    /// [`StoreError::Config`] when the text is anything else.
    pub fn from_hex(text: &str) -> Result<Self, StoreError> {
        let mut key = [0; 32];
        hex::decode_to_slice(text.trim(), &mut key)
            .map_err(|_| StoreError::Config("the deployment key must be 64 hexadecimal digits".to_owned()))?;
        Ok(Self(key))
    }

    /// The key as 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// HMAC-SHA-256 (RFC 2104) over length-prefixed parts, under the sub-key of `label`.
    pub fn mac(&self, label: &str, parts: &[&[u8]]) -> [u8; 32] {
        self.sub_key(label).mac(parts.iter().copied())
    }

    /// Whether `tag` is the [`mac`](Self::mac) of these parts, or a prefix of it with at least [`TAG_BYTES_MIN`] bytes.
    /// The comparison takes constant time.
    pub fn verify(&self, label: &str, parts: &[&[u8]], tag: &[u8]) -> bool {
        self.sub_key(label).verifies(parts.iter().copied(), tag)
    }

    /// The sub-key of `label`, for callers that compute many MACs.
    pub fn sub_key(&self, label: &str) -> MacKey {
        MacKey(new_mac(&new_mac(&self.0).chain_update(label.as_bytes()).finalize().into_bytes()))
    }
}

/// Minimum length of a truncated MAC, in bytes.
pub const TAG_BYTES_MIN: usize = 16;

/// A key of MACs, derived from the deployment key.
#[derive(Clone)]
pub struct MacKey(Hmac<Sha256>);

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(..)")
    }
}

impl MacKey {
    /// HMAC-SHA-256 over length-prefixed parts.
    pub fn mac<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
        self.mac_over(parts).finalize().into_bytes().into()
    }

    /// Whether `tag` is the MAC of these parts, or a prefix of it with at least [`TAG_BYTES_MIN`] bytes.
    /// The comparison takes constant time.
    pub fn verifies<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>, tag: &[u8]) -> bool {
        tag.len() >= TAG_BYTES_MIN && self.mac_over(parts).verify_truncated_left(tag).is_ok()
    }

    fn mac_over<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

/// Decryption failed: the value was changed, belongs to another context, or was encrypted with another deployment key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sealed value does not open")]
pub struct SealError;

impl DeploymentKey {
    /// Encrypts a value for the context of `label` and `parts`, with AES-256-GCM and a key derived for this context.
    /// Returns the random nonce followed by the ciphertext.
    pub fn seal(&self, label: &str, parts: &[&[u8]], value: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut sealed = value.to_vec();
        self.cipher(label, parts)
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
            .expect("a short value can be sealed");
        [&nonce[..], &sealed].concat()
    }

    /// Decrypts a value of this context.
    ///
    /// # Errors
    /// [`SealError`] when it does not decrypt.
    pub fn open(&self, label: &str, parts: &[&[u8]], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(SealError)?;
        let mut value = sealed.to_vec();
        let opened = self
            .cipher(label, parts)
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut value)
            .map_err(|_| SealError)?;
        Ok(opened.to_vec())
    }

    fn cipher(&self, label: &str, parts: &[&[u8]]) -> LessSafeKey {
        let derived = self.mac(label, parts);
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &derived).expect("a key of 32 bytes"))
    }
}

fn new_mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_depends_on_key_label_and_part_boundaries() {
        let key = DeploymentKey::from_hex(&"ab".repeat(32)).expect("valid");
        let mac = key.mac("a", &[b"xy", b"z"]);
        assert_eq!(mac, key.mac("a", &[b"xy", b"z"]));
        assert_ne!(mac, key.mac("b", &[b"xy", b"z"]));
        assert_ne!(mac, key.mac("a", &[b"x", b"yz"]));
        assert_ne!(mac, DeploymentKey::generate().mac("a", &[b"xy", b"z"]));
        assert!(!format!("{key:?}").contains("abab"));
        // The value must not change, because stored digests depend on it.
        let known = "584139296aa3bc37";
        assert_eq!(&hex::encode(mac)[..known.len()], known);
        assert!(DeploymentKey::from_hex("abc").is_err());
        let (of_a, parts) = (key.sub_key("a"), [b"xy".as_slice(), b"z"]);
        assert!(of_a.verifies(parts, &mac) && of_a.verifies(parts, &mac[..16]));
        assert!(!of_a.verifies(parts, &[]) && !of_a.verifies(parts, &mac[1..]));
        assert!(!of_a.verifies([b"x".as_slice(), b"yz"], &mac));
    }

    #[test]
    fn a_sealed_value_opens_at_its_place_alone() {
        let key = DeploymentKey::generate();
        let sealed = key.seal("a", &[b"x", b"y"], b"a secret value");
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert_ne!(sealed, key.seal("a", &[b"x", b"y"], b"a secret value"));
        assert_eq!(key.open("a", &[b"x", b"y"], &sealed).as_deref(), Ok(&b"a secret value"[..]));
        assert_eq!(key.open("b", &[b"x", b"y"], &sealed), Err(SealError));
        assert_eq!(key.open("a", &[b"xy", b""], &sealed), Err(SealError));
        assert_eq!(DeploymentKey::generate().open("a", &[b"x", b"y"], &sealed), Err(SealError));
        assert_eq!(key.open("a", &[b"x", b"y"], &sealed[..5]), Err(SealError));
    }

    #[test]
    fn a_tag_is_verified_whole_or_by_its_first_sixteen_bytes_at_least() {
        let key = DeploymentKey::generate();
        let parts: [&[u8]; 2] = [b"xy", b"z"];
        let mac = key.mac("a", &parts);
        for length in 0..=mac.len() {
            assert_eq!(key.verify("a", &parts, &mac[..length]), length >= TAG_BYTES_MIN, "{length}");
        }
        for index in 0..mac.len() {
            let mut changed = mac;
            changed[index] ^= 1;
            assert!(!key.verify("a", &parts, &changed), "{index}");
        }
        assert!(!key.verify("b", &parts, &mac));
        assert!(!key.verify("a", &[b"x", b"yz"], &mac));
        assert!(!key.verify("a", &parts, &[&mac[..], &[0]].concat()));
    }
}
