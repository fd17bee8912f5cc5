//! The digest of a request. It distinguishes a repeat from another request with the same key.

use schemas::engine::canonical::{self, CanonicalError};
use serde::Serialize;

use crate::DeploymentKey;

/// Label of the MAC. Digests of commands without secrets equal those of older receipts, from before keys were derived.
const MAC_LABEL: &str = "command-digest";
/// Prefix of a body that is not JSON; no canonical form starts with it.
const NON_JSON_MARKER: u8 = 0xff;

/// Collects what a client sent: the name of a command or route, its target, its content and its secrets.
///
/// Values that the product adds (times, hashes, generated ids) are not part of it.
/// The digest is an HMAC with the deployment key over length-prefixed parts.
/// A secret is added as a MAC of its own, so that no unkeyed digest of a password is stored.
pub struct RequestDigest<'a> {
    key: &'a DeploymentKey,
    parts: Vec<Vec<u8>>,
}

impl<'a> RequestDigest<'a> {
    /// Starts a digest of a command (target: its stream) or a route (target: its path).
    pub fn new(key: &'a DeploymentKey, name: &str, target: &str) -> Self {
        Self { key, parts: vec![name.as_bytes().to_vec(), target.as_bytes().to_vec()] }
    }

    /// Adds typed content. Absent optional fields are left out.
    ///
    /// # Errors
    /// When the value does not serialise, or contains ambiguous raw JSON.
    pub fn value(mut self, value: &impl Serialize) -> Result<Self, CanonicalError> {
        self.parts.push(canonical::of_value(value)?);
        Ok(self)
    }

    /// Adds JSON as the client sent it.
    ///
    /// # Errors
    /// When the text is not JSON, or is ambiguous.
    pub fn json(mut self, text: &[u8]) -> Result<Self, CanonicalError> {
        self.parts.push(canonical::of_text(text)?);
        Ok(self)
    }

    /// Adds a body as the client sent it: its content if it is JSON, else its bytes.
    /// So a request that is rejected later still differs from an accepted one with the same key.
    #[must_use]
    pub fn body(mut self, body: &[u8]) -> Self {
        let part = canonical::of_text(body).unwrap_or_else(|_| [&[NON_JSON_MARKER], body].concat());
        self.parts.push(part);
        self
    }

    /// Adds a secret that is not part of the content, such as a password.
    #[must_use]
    pub fn secret(mut self, name: &str, value: &[u8]) -> Self {
        let mac = self.key.mac("request-secret", &[name.as_bytes(), value]);
        self.parts.push([b"secret/", name.as_bytes()].concat());
        self.parts.push(mac.to_vec());
        self
    }

    /// Returns the digest.
    pub fn finish(self) -> [u8; 32] {
        let parts: Vec<&[u8]> = self.parts.iter().map(Vec::as_slice).collect();
        self.key.mac(MAC_LABEL, &parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &DeploymentKey, name: &str, target: &str, body: &str) -> [u8; 32] {
        RequestDigest::new(key, name, target).body(body.as_bytes()).finish()
    }

    #[test]
    fn a_digest_tells_key_name_target_and_content_apart() {
        let key = DeploymentKey::generate();
        let first = of(&key, "POST /v1/x", "/v1/x", r#"{"n":1}"#);
        assert_eq!(first, of(&key, "POST /v1/x", "/v1/x", r#" { "n" : 1.0 } "#));
        assert_ne!(first, of(&DeploymentKey::generate(), "POST /v1/x", "/v1/x", r#"{"n":1}"#));
        assert_ne!(first, of(&key, "PUT /v1/x", "/v1/x", r#"{"n":1}"#));
        assert_ne!(first, of(&key, "POST /v1/x", "/v1/y", r#"{"n":1}"#));
        for other in [r#"{"n":2}"#, r#"{"n":null}"#, "{}", "", "{", r#"{"n":1,"n":1}"#] {
            assert_ne!(first, of(&key, "POST /v1/x", "/v1/x", other), "{other}");
        }
    }

    #[test]
    fn numbers_beyond_floating_point_count_exactly() {
        let key = DeploymentKey::generate();
        let of = |body| of(&key, "a", "b", body);
        assert_ne!(of(r#"{"n":100000000000000000001}"#), of(r#"{"n":100000000000000000002}"#));
        assert_ne!(of(r#"{"n":0.1}"#), of(r#"{"n":0.10000000000000000000001}"#));
    }

    #[test]
    fn a_secret_counts_and_shows_nowhere() {
        let key = DeploymentKey::generate();
        let with = |secret: &str| {
            let digest = RequestDigest::new(&key, "RegisterUser", "x").json(b"{}").expect("JSON");
            digest.secret("password", secret.as_bytes())
        };
        assert_eq!(with("correct horse").finish(), with("correct horse").finish());
        assert_ne!(with("correct horse").finish(), with("battery staple").finish());
        let none = RequestDigest::new(&key, "RegisterUser", "x").json(b"{}").expect("JSON").finish();
        assert_ne!(with("").finish(), none);
        assert!(
            with("correct horse").parts.iter().all(|part| !part.windows(5).any(|window| window == b"horse"))
        );
    }

    #[test]
    fn what_is_no_json_is_refused_where_json_is_asked_for() {
        let key = DeploymentKey::generate();
        for wrong in ["", "{", r#"{"a":1,"a":2}"#] {
            assert!(RequestDigest::new(&key, "a", "b").json(wrong.as_bytes()).is_err());
        }
        // Bytes of a body that is not JSON never equal a canonical form.
        let broken = RequestDigest::new(&key, "a", "b").body(b"{").finish();
        assert_ne!(broken, RequestDigest::new(&key, "a", "b").body(b"{}").finish());
    }

    #[test]
    fn the_digest_of_a_command_is_that_of_earlier_receipts() {
        #[derive(Serialize)]
        struct Command {
            reason: Option<&'static str>,
            name: &'static str,
            count: u32,
        }
        let key = DeploymentKey::generate();
        let command = Command { reason: None, name: "é\"/\n", count: 1200 };
        let digest = RequestDigest::new(&key, "Rename", "a/1").value(&command).expect("serialises").finish();
        let before = serde_json::json!({"name": command.name, "count": command.count}).to_string();
        assert_eq!(digest, key.mac("command-digest", &[b"Rename", b"a/1", before.as_bytes()]));
    }
}
