//! Makes what an integrator receives: a credentials file and the settings of its client.

use std::fmt;
use std::sync::Arc;

use nkeys::{KeyPair, KeyPairType};
use schemas::engine::TenantId;
use serde::Serialize;
use store::DeploymentKey;
use uuid::Uuid;

use super::registry::IntegratorCredential;
use super::registry::commands::NewKey;
use crate::accounts::{API_PREFIX, Claims, KeyError, account_key, credentials_file, edge_user, seed};
use crate::connection::{STREAM, without_password};

/// The settings that a standard NATS client needs to read from its consumer.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct IntegratorConnection {
    /// The credential's name.
    pub name: String,
    /// The addresses of the NATS servers.
    pub servers: Vec<String>,
    /// The name of the stream.
    pub stream: &'static str,
    /// The durable consumer to pull from.
    pub consumer: String,
    /// The prefix of JetStream's API, in place of `$JS.API`.
    pub api_prefix: &'static str,
    /// The prefix of the client's inboxes, in place of `_INBOX`.
    pub inbox_prefix: String,
    /// The text of a credentials file.
    pub credentials: String,
}

impl fmt::Debug for IntegratorConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Signs for the integrators' account. Cheap to clone.
#[derive(Clone)]
pub struct Issuer(Arc<IssuerKeys>);

struct IssuerKeys {
    account: String,
    key: KeyPair,
    servers: Vec<String>,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("account", &self.0.account).finish_non_exhaustive()
    }
}

impl Issuer {
    /// An issuer for the account `EDGE`, with the seed of a key that signs for it.
    /// `servers` are comma-separated addresses for integrators; passwords in them are removed.
    ///
    /// # Errors
    /// [`KeyError`] if the account or the seed is not a valid key.
    pub fn new(account: &str, signing_seed: &str, servers: &str) -> Result<Self, KeyError> {
        let account = account_key("nats.edge_account", account)?;
        let key = seed("nats.edge_signing_seed", signing_seed, KeyPairType::Account)?;
        let servers = without_password(servers).split(',').map(|one| one.trim().to_owned()).collect();
        Ok(Self(Arc::new(IssuerKeys { account, key, servers })))
    }

    /// The public key of `EDGE`.
    pub fn account(&self) -> &str {
        &self.0.account
    }

    /// The public keys that sign for `EDGE`, without its own key.
    pub(super) fn signing_keys(&self) -> Vec<String> {
        let key = self.0.key.public_key();
        if key == self.0.account { Vec::new() } else { vec![key] }
    }

    /// The connection for one key of a credential.
    /// The same key always gives the same text: its secret is derived from the deployment key and is not stored.
    pub(super) fn connection(
        &self,
        deployment: &DeploymentKey,
        credential: &IntegratorCredential,
        key: &NewKey,
    ) -> IntegratorConnection {
        let user = user_key(deployment, credential.tenant, key.id);
        let derived = |label: &str| hex::encode(&mac(deployment, label, credential.tenant, key.id)[..16]);
        let inbox_prefix = format!("_INBOX_{}", derived("nats inbox"));
        let claims = Claims {
            jti: derived("nats token id"),
            iat: key.issued_at.timestamp(),
            exp: Some(key.expires_at.timestamp()),
            iss: self.0.key.public_key(),
            sub: user.public_key(),
            name: credential.consumer.clone(),
            nats: edge_user(&self.0.account, &credential.consumer, &inbox_prefix),
        };
        IntegratorConnection {
            name: credential.name.clone(),
            servers: self.0.servers.clone(),
            stream: STREAM,
            consumer: credential.consumer.clone(),
            api_prefix: API_PREFIX,
            inbox_prefix,
            credentials: credentials_file(&claims.sign(&self.0.key), &user),
        }
    }
}

/// The public key of a key id.
pub(super) fn public_key(deployment: &DeploymentKey, tenant: TenantId, key: Uuid) -> String {
    user_key(deployment, tenant, key).public_key()
}

fn user_key(deployment: &DeploymentKey, tenant: TenantId, key: Uuid) -> KeyPair {
    let seed = mac(deployment, "nats user key", tenant, key);
    KeyPair::new_from_raw(KeyPairType::User, seed).expect("any 32 bytes are an Ed25519 seed")
}

fn mac(deployment: &DeploymentKey, label: &str, tenant: TenantId, key: Uuid) -> [u8; 32] {
    deployment.mac(label, &[tenant.0.as_bytes(), key.as_bytes()])
}
