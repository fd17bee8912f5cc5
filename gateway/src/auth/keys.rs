//! The Ed25519 key that signs access tokens. The private key is a PKCS#8 PEM file; the public key is published as a
//! JSON Web Key Set.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde_json::{Value, json};

/// Why a signing key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text is not a PEM file with an Ed25519 private key in PKCS#8.
    #[error("signing key is not an Ed25519 private key in PKCS#8 PEM")]
    Malformed,
    /// The system's random number generator failed.
    #[error("no new signing key can be made")]
    Generation,
}

/// A private key with its public key and key id.
pub struct SigningKey {
    pub(super) private: EncodingKey,
    pub(super) public: DecodingKey,
    pub(super) id: String,
    x: String,
}

impl SigningKey {
    /// Generates a key as the text of a PEM file. The caller must store it in a place that no other user can read.
    ///
    /// # Errors
    /// [`KeyError::Generation`] when the system's random number generator fails.
    pub fn generate_pem() -> Result<String, KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Generation)?;
        // PKCS#8 version 1 without the public key: OpenSSL writes it, and all programs read it.
        let document = pair.to_pkcs8v1().map_err(|_| KeyError::Generation)?;
        let encoded = STANDARD.encode(document.as_ref());
        let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, tail) = rest.split_at(rest.len().min(64));
            pem.push_str(line);
            pem.push('\n');
            rest = tail;
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        Ok(pem)
    }

    /// Reads a key from a PEM file.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] when the text is not an Ed25519 private key in PKCS#8 PEM.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let private = EncodingKey::from_ed_pem(pem.as_bytes()).map_err(|_| KeyError::Malformed)?;
        let pair = Ed25519KeyPair::from_pkcs8(private.as_bytes()).map_err(|_| KeyError::Malformed)?;
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        // The thumbprint of RFC 7638 over the members of RFC 8037, section 2, in lexical order.
        let thumbprint = digest::digest(
            &digest::SHA256,
            format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#).as_bytes(),
        );
        Ok(Self {
            private,
            public: DecodingKey::from_ed_der(pair.public_key().as_ref()),
            id: URL_SAFE_NO_PAD.encode(thumbprint.as_ref()),
            x,
        })
    }

    /// The JSON Web Key Set (RFC 7517) that other programs use to verify tokens.
    pub fn jwks(&self) -> Value {
        json!({
            "keys": [{
                "kty": "OKP",
                "crv": "Ed25519",
                "x": self.x,
                "kid": self.id,
                "alg": "EdDSA",
                "use": "sig",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_reads_back_and_keeps_its_id() {
        let pem = SigningKey::generate_pem().expect("a key");
        let one = SigningKey::from_pem(&pem).expect("readable");
        let two = SigningKey::from_pem(&pem).expect("readable");
        assert_eq!(one.id, two.id);
        assert_eq!(one.jwks()["keys"][0]["kid"], one.id.as_str());
        assert_ne!(
            one.id,
            SigningKey::from_pem(&SigningKey::generate_pem().expect("a key")).expect("readable").id
        );
    }

    #[test]
    fn the_thumbprint_is_that_of_rfc_8037() {
        // Appendix A.1 and A.3: private key, then thumbprint.
        let private = "302e020100300506032b657004220420\
                       9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(hex::decode(private).expect("hexadecimal"))
        );
        let key = SigningKey::from_pem(&pem).expect("readable");
        assert_eq!(key.id, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn other_text_is_refused() {
        for bad in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "abc"] {
            assert!(SigningKey::from_pem(bad).is_err(), "{bad}");
        }
    }
}
