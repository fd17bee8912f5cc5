//! Signing secrets of Standard Webhooks (`whsec_` and 32 random bytes in base64), their encryption in the database, and
//! signatures.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use schemas::engine::TenantId;
use sha2::Sha256;
use store::DeploymentKey;
use uuid::Uuid;

/// The prefix of a secret.
const PREFIX: &str = "whsec_";

/// A signing secret. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret([u8; 32]);

impl std::fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningSecret(..)")
    }
}

/// A value cannot be decrypted: it was changed, belongs to another place, or the deployment key is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sealed value does not open")]
pub struct SealError;

impl SigningSecret {
    /// A new random secret.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// The text form for the owner of the endpoint.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(self.0))
    }

    /// Encrypts the secret for storage, for one webhook of one tenant.
    pub fn seal(&self, key: &DeploymentKey, tenant: TenantId, webhook: Uuid) -> Vec<u8> {
        seal(key, tenant, webhook, &self.0)
    }

    /// Decrypts a stored secret.
    ///
    /// # Errors
    /// [`SealError`] if the value is not a secret of this webhook.
    pub fn open(
        key: &DeploymentKey,
        tenant: TenantId,
        webhook: Uuid,
        sealed: &[u8],
    ) -> Result<Self, SealError> {
        open(key, tenant, webhook, sealed)?.try_into().map(Self).map_err(|_| SealError)
    }

    /// The signature of a message: `v1,` and an HMAC-SHA-256 in base64 (Standard Webhooks 1.0, symmetric).
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// Encrypts a value for one place of one tenant: AES-256-GCM under a key derived from the deployment key for this
/// place.
/// The result begins with a random nonce.
pub fn seal(key: &DeploymentKey, tenant: TenantId, place: Uuid, value: &[u8]) -> Vec<u8> {
    let nonce: [u8; NONCE_LEN] = rand::random();
    let mut sealed = value.to_vec();
    cipher(key, tenant, place)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
        .expect("a short value can be sealed");
    [&nonce[..], &sealed].concat()
}

/// Decrypts a value of this place.
///
/// # Errors
/// [`SealError`] if the value was changed or is of another place.
pub fn open(key: &DeploymentKey, tenant: TenantId, place: Uuid, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(SealError)?;
    let mut value = sealed.to_vec();
    let opened = cipher(key, tenant, place)
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut value)
        .map_err(|_| SealError)?;
    Ok(opened.to_vec())
}

fn cipher(key: &DeploymentKey, tenant: TenantId, place: Uuid) -> LessSafeKey {
    let derived = key.mac("webhook-seal", &[tenant.0.as_bytes(), place.as_bytes()]);
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &derived).expect("a key of 32 bytes"))
}

#[cfg(test)]
mod tests {
    use schemas::engine::ids;

    use super::*;

    #[test]
    fn a_secret_is_kept_sealed_for_its_webhook_alone() {
        let (key, tenant, webhook) = (DeploymentKey::generate(), TenantId(ids::new_id()), ids::new_id());
        let secret = SigningSecret::generate();
        let sealed = secret.seal(&key, tenant, webhook);
        assert!(!sealed.windows(8).any(|part| secret.0.windows(8).any(|clear| clear == part)));
        assert_ne!(sealed, secret.seal(&key, tenant, webhook));
        assert_eq!(SigningSecret::open(&key, tenant, webhook, &sealed), Ok(secret.clone()));
        for (key, tenant, webhook) in [
            (&DeploymentKey::generate(), tenant, webhook),
            (&key, TenantId(ids::new_id()), webhook),
            (&key, tenant, ids::new_id()),
        ] {
            assert_eq!(SigningSecret::open(key, tenant, webhook, &sealed), Err(SealError));
        }
        assert_eq!(SigningSecret::open(&key, tenant, webhook, &sealed[..5]), Err(SealError));
        assert_eq!(format!("{secret:?}"), "SigningSecret(..)");
    }

    #[test]
    fn the_signature_is_that_of_standard_webhooks() {
        // The example of the specification.
        let bytes = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let mut mac = Hmac::<Sha256>::new_from_slice(&bytes).expect("a key");
        mac.update(b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}");
        assert_eq!(
            STANDARD.encode(mac.finalize().into_bytes()),
            "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
        let secret = SigningSecret([7; 32]);
        let reference = standardwebhooks::Webhook::new(&secret.reveal()).expect("a secret");
        let signature = secret.sign("msg_1", 1_614_265_330, b"{}");
        assert_eq!(signature, reference.sign("msg_1", 1_614_265_330, b"{}").expect("signed"));
    }
}
