//! The connection to NATS's system account: reads and pushes the JWT of the integrators' account.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use async_nats::Client;
use nkeys::{KeyPair, KeyPairType};
use serde_json::Value;

use super::Issuer;
use super::registry::RevokedKey;
use crate::accounts::{Claims, KeyError, account_of_credentials, edge_account, seed};
use crate::connection::{addresses, describe};
use crate::{NatsConfig, NatsError};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Size of a JWT at which a warning is logged. Servers with the usual `max_payload` of 1 MiB will soon reject it.
const JWT_SIZE_WARNING_BYTES: usize = 512 * 1024;

/// The connection to the system account, and the wanted state of the integrators' account.
pub(super) struct SystemAccount {
    client: Client,
    operator: KeyPair,
    issuer: Issuer,
    application: String,
}

impl SystemAccount {
    /// Connects; retries in the background if no server answers. `application` holds the settings of the product's
    /// connection.
    pub(super) async fn connect(
        application: &NatsConfig,
        credentials: &Path,
        operator_seed: &str,
        issuer: Issuer,
    ) -> Result<Self, SystemError> {
        let operator = seed("nats.operator_signing_seed", operator_seed, KeyPairType::Operator)?;
        let own = match &application.credentials_file {
            Some(file) => tokio::fs::read_to_string(file).await.map_err(NatsError::Credentials)?,
            None => String::new(),
        };
        let application_account = account_of_credentials(&own)
            .ok_or(KeyError("nats.credentials_file", "a credentials file of the application's account"))?;
        let client = application
            .connect_options()
            .name("annals integrators")
            .retry_on_initial_connect()
            .max_reconnects(None)
            .connection_timeout(REQUEST_TIMEOUT)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .ping_interval(Duration::from_secs(10))
            .credentials_file(credentials)
            .await
            .map_err(NatsError::Credentials)?
            .connect(addresses(&application.url)?)
            .await
            .map_err(NatsError::Connect)?;
        Ok(Self { client, operator, issuer, application: application_account })
    }

    /// Updates the servers' JWT of the integrators' account: its services, its signing keys, and the revoked keys.
    /// The servers close the connections of revoked keys.
    pub(super) async fn deny(&self, keys: &[RevokedKey]) -> Result<(), NatsError> {
        let account = self.issuer.account();
        let found = self.request(format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP"), String::new()).await?;
        let found = Claims::read(&found);
        let revocations: BTreeMap<String, i64> =
            keys.iter().map(|key| (key.public_key.clone(), key.issued_at.timestamp())).collect();
        let nats = edge_account(&self.application, &self.issuer.signing_keys(), &revocations);
        if found.as_ref().is_some_and(|found| found.nats == nats) {
            return Ok(());
        }
        let mut claims = Claims::new(&self.operator, account.to_owned(), "EDGE", nats);
        // A resolver keeps its JWT if that is newer. A clock that went back must not make this one older.
        claims.iat = claims.iat.max(found.map_or(0, |found| found.iat));
        let token = claims.sign(&self.operator);
        if token.len() > JWT_SIZE_WARNING_BYTES {
            tracing::warn!(bytes = token.len(), "the JWT of the integrators' account grows too large");
        }
        let answer = self.request("$SYS.REQ.CLAIMS.UPDATE".to_owned(), token).await?;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        if answer["data"]["code"] != 200 {
            let refusal = answer["error"]["description"].as_str().unwrap_or("no answer that reads");
            return Err(NatsError::System(format!("the account JWT was not taken: {refusal}")));
        }
        tracing::info!(kept_out = revocations.len(), "the integrators' account was updated");
        Ok(())
    }

    async fn request(&self, subject: String, payload: String) -> Result<String, NatsError> {
        let answer = self.client.request(subject, payload.into()).await;
        let answer = answer.map_err(|error| NatsError::System(describe(&error)))?;
        Ok(String::from_utf8_lossy(&answer.payload).into_owned())
    }
}

/// Why the reconciler does not start.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// NATS or its settings failed.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// A key is invalid.
    #[error(transparent)]
    Key(#[from] KeyError),
}
