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
        self.sub_key(label).mac(parts.iter().copied())
    }

    /// The sub-key of `label`, for those that make many MACs.
    pub fn sub_key(&self, label: &str) -> MacKey {
        MacKey(keyed(&hmac(&self.0, |mac| mac.update(label.as_bytes()))))
    }
}

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
        self.fed(parts).finalize().into_bytes().into()
    }

    /// Whether `tag` is the beginning of the MAC over these parts. The comparison takes the same time for every tag of a
    /// length. An empty tag is none.
    pub fn verifies<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>, tag: &[u8]) -> bool {
        self.fed(parts).verify_truncated_left(tag).is_ok()
    }

    fn fed<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length")
}

fn hmac(key: &[u8], feed: impl FnOnce(&mut Hmac<Sha256>)) -> [u8; 32] {
    let mut mac = keyed(key);
    feed(&mut mac);
    mac.finalize().into_bytes().into()
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
        assert!(DeploymentKey::from_hex("abc").is_err());
        let (of_a, parts) = (key.sub_key("a"), [b"xy".as_slice(), b"z"]);
        assert!(of_a.verifies(parts, &mac) && of_a.verifies(parts, &mac[..16]));
        assert!(!of_a.verifies(parts, &[]) && !of_a.verifies(parts, &mac[1..]));
        assert!(!of_a.verifies([b"x".as_slice(), b"yz"], &mac));
    }
}
