//! Consistency tokens: a read with a token sees at least that position.
//! They are authenticated, so clients cannot make them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemas::engine::{LogId, TenantId};
use uuid::Uuid;

use crate::DeploymentKey;

/// A position that a read must have reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsistencyToken {
    /// The tenant.
    pub tenant: TenantId,
    /// The log of the position.
    pub log_id: LogId,
    /// The position.
    pub position: u64,
}

/// The token is malformed, has a wrong tag, or belongs to another tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the consistency token is not valid here")]
pub struct TokenError;

const BODY_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const MAC_LABEL: &str = "consistency-token";

impl ConsistencyToken {
    /// Encodes log id, position and a tag over both and the tenant, in base64url.
    pub fn encode(&self, key: &DeploymentKey) -> String {
        let mut bytes = Vec::with_capacity(BODY_BYTES + TAG_BYTES);
        bytes.extend_from_slice(self.log_id.0.as_bytes());
        bytes.extend_from_slice(&self.position.to_be_bytes());
        let mac = key.mac(MAC_LABEL, &[self.tenant.0.as_bytes(), &bytes]);
        bytes.extend_from_slice(&mac[..TAG_BYTES]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Decodes and verifies a token of this tenant.
    ///
    /// # Errors
    /// [`TokenError`] when the token is malformed, or not made for this tenant with this key.
    pub fn decode(key: &DeploymentKey, tenant: TenantId, text: &str) -> Result<Self, TokenError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError)?;
        let is_ours = |(body, tag): (&[u8], &[u8])| {
            tag.len() == TAG_BYTES && key.verify(MAC_LABEL, &[tenant.0.as_bytes(), body], tag)
        };
        if !bytes.split_at_checked(BODY_BYTES).is_some_and(is_ours) {
            return Err(TokenError);
        }
        let log_id = LogId(Uuid::from_slice(&bytes[..16]).map_err(|_| TokenError)?);
        let position = u64::from_be_bytes(bytes[16..BODY_BYTES].try_into().map_err(|_| TokenError)?);
        Ok(Self { tenant, log_id, position })
    }
}

#[cfg(test)]
mod tests {
    use schemas::engine::ids;

    use super::*;

    #[test]
    fn a_token_reads_back_for_its_own_tenant_only() {
        let key = DeploymentKey::generate();
        let token = ConsistencyToken {
            tenant: TenantId(ids::new_id()),
            log_id: LogId(ids::random_id()),
            position: 42,
        };
        let text = token.encode(&key);
        assert_eq!(ConsistencyToken::decode(&key, token.tenant, &text), Ok(token));
        assert_eq!(ConsistencyToken::decode(&key, TenantId(ids::new_id()), &text), Err(TokenError));
        assert_eq!(
            ConsistencyToken::decode(&DeploymentKey::generate(), token.tenant, &text),
            Err(TokenError)
        );
    }

    #[test]
    fn a_changed_token_is_refused() {
        let key = DeploymentKey::generate();
        let token = ConsistencyToken {
            tenant: TenantId(ids::new_id()),
            log_id: LogId(ids::random_id()),
            position: 1,
        };
        let text = token.encode(&key);
        for index in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert_eq!(ConsistencyToken::decode(&key, token.tenant, &changed), Err(TokenError));
        }
        assert_eq!(ConsistencyToken::decode(&key, token.tenant, ""), Err(TokenError));
    }
}
