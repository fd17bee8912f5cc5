//! The deployment key: one secret from which the keys of every keyed digest are derived.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::StoreError;

/// A 32-byte secret of the deployment, from a file or the environment. Losing it makes reservations, receipts and tokens
/// unreadable; it never reaches logs or the database.
#[derive(Clone)]
pub struct DeploymentKey([u8; 32]);

impl fmt::Debug for DeploymentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeploymentKey(..)")
    }
}

impl DeploymentKey {
    /// A new random key.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// A key from 64 hexadecimal digits, surrounding white space aside.
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
        self.fed(label, parts).finalize().into_bytes().into()
    }

    /// Whether `tag` is the [`mac`](Self::mac) of these parts, or its beginning of at least [`TAG_BYTES_MIN`] bytes. Takes the
    /// same time wherever the two differ.
    pub fn verify(&self, label: &str, parts: &[&[u8]], tag: &[u8]) -> bool {
        tag.len() >= TAG_BYTES_MIN && self.fed(label, parts).verify_truncated_left(tag).is_ok()
    }

    fn fed(&self, label: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
        let sub_key = keyed(&self.0).chain_update(label.as_bytes()).finalize().into_bytes();
        let mut mac = keyed(&sub_key);
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

/// The shortest tag that is accepted in the place of a whole MAC.
pub const TAG_BYTES_MIN: usize = 16;

fn keyed(key: &[u8]) -> Hmac<Sha256> {
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
        // Stored digests depend on it.
        let known = "584139296aa3bc37";
        assert_eq!(&hex::encode(mac)[..known.len()], known);
        assert!(DeploymentKey::from_hex("abc").is_err());
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
