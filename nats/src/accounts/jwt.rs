//! NATS JWTs (JSON claims signed by an nkey with Ed25519), and credentials files with a JWT and its key.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{now, token_id};

const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;

/// The claims of an operator, an account or a user in NATS's format (version 2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// The id of the JWT. A resolver that holds a JWT with this id does not accept it again.
    pub jti: String,
    /// When it was issued, in Unix seconds.
    pub iat: i64,
    /// When it expires, in Unix seconds; `None` means never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    /// The public key of the issuer.
    pub iss: String,
    /// The public key of the subject.
    pub sub: String,
    /// A name for people.
    #[serde(default)]
    pub name: String,
    /// The granted permissions.
    pub nats: Value,
}

impl Claims {
    /// Claims about `sub`, issued now by `issuer`, without an expiry.
    pub fn new(issuer: &KeyPair, sub: String, name: &str, nats: Value) -> Self {
        Self {
            jti: token_id(),
            iat: now(),
            exp: None,
            iss: issuer.public_key(),
            sub,
            name: name.to_owned(),
            nats,
        }
    }

    /// Signs the JWT. `issuer` must be the key named in `iss`.
    pub fn sign(&self, issuer: &KeyPair) -> String {
        let claims = serde_json::to_vec(self).expect("claims are JSON");
        let signed = format!("{}.{}", BASE64.encode(HEADER), BASE64.encode(claims));
        let signature = issuer.sign(signed.as_bytes()).expect("the issuer's key has its seed");
        format!("{signed}.{}", BASE64.encode(signature))
    }

    /// Parses a JWT without verification of its signature. The source of the JWT must have verified it.
    pub fn read(token: &str) -> Option<Self> {
        let claims = token.trim().split('.').nth(1)?;
        serde_json::from_slice(&BASE64.decode(claims).ok()?).ok()
    }
}

/// The text of a credentials file (`.creds`) for NATS clients.
pub fn credentials_file(token: &str, user: &KeyPair) -> String {
    let seed = user.seed().expect("the user's key has its seed");
    format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         ************************* IMPORTANT *************************\n\
         NKEY Seed printed below can be used to sign and prove identity.\n\
         NKEYs are sensitive and should be treated as secrets.\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n\n\
         *************************************************************\n"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_reads_back_and_its_signature_holds() {
        let key = KeyPair::new_account();
        let claims = Claims::new(&key, "USER".to_owned(), "ada", json!({"type": "user"}));
        let token = claims.sign(&key);
        assert_eq!(Claims::read(&token), Some(claims));
        let (signed, signature) = token.rsplit_once('.').expect("three parts");
        let signature = BASE64.decode(signature).expect("base64");
        assert!(key.verify(signed.as_bytes(), &signature).is_ok());
        assert!(!token.contains('='));
    }
}
