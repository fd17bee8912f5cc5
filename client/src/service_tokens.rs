//! Service tokens: with them programs and auditors use the API.

use chrono::{DateTime, Utc};
use schemas::identity::scope::Scope;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Client, Error};

const PATH: &str = "/v1/service-tokens";

/// A token to issue.
#[derive(Debug, Clone, Serialize)]
pub struct NewServiceToken {
    /// The name of its holder.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it expires.
    #[serde(flatten)]
    pub expiry: TokenExpiry,
}

/// When a token expires.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum TokenExpiry {
    /// After a number of days.
    #[serde(rename = "expires_days")]
    Days(u16),
    /// At a time.
    #[serde(rename = "expires_at", serialize_with = "rfc3339")]
    At(DateTime<Utc>),
}

/// A token without its secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServiceTokenRecord {
    /// Its id.
    pub id: Uuid,
    /// The name of its holder.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it was issued.
    pub issued_at: String,
    /// When it expires.
    pub expires_at: String,
    /// Whether it was revoked.
    pub revoked: bool,
}

/// A token that was just issued. It cannot be read again. It has no `Debug`, because it is a secret.
#[derive(Clone, Serialize, Deserialize)]
pub struct IssuedServiceToken {
    /// The token itself.
    pub access_token: String,
    /// Makes later reads wait until they show the token.
    pub consistency_token: Option<String>,
    /// What was issued.
    pub service_token: ServiceTokenRecord,
    /// How the token is sent: `Bearer`.
    pub token_type: String,
}

/// A page of tokens, in the order of issue.
#[derive(Debug, Clone, Deserialize)]
pub struct ServiceTokensPage {
    /// The tokens.
    pub service_tokens: Vec<ServiceTokenRecord>,
    /// The last token, if there are more.
    pub next_after: Option<Uuid>,
}

impl Client {
    /// Issues a token.
    ///
    /// # Errors
    /// [`Error::Refused`] when the server refuses the token. [`Error::Transport`] without a complete answer,
    /// [`Error::Unreadable`] when it is not a token; the token may have been issued.
    pub async fn issue_service_token(&self, new: &NewServiceToken) -> Result<IssuedServiceToken, Error> {
        self.post(PATH, new).await
    }

    /// A page of the tenant's tokens after the one with this id.
    ///
    /// # Errors
    /// [`Error::Transport`] without a complete answer, [`Error::Refused`] when the server refuses the request.
    /// [`Error::Unreadable`] when the answer is not a page of tokens.
    pub async fn service_tokens(
        &self,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<ServiceTokensPage, Error> {
        let mut parameters = vec![("limit", limit.to_string())];
        parameters.extend(after.map(|after| ("after", after.to_string())));
        self.json(PATH, &parameters).await
    }

    /// Revokes a token. A second request changes nothing.
    ///
    /// # Errors
    /// [`Error::Transport`] without an answer; the token may be revoked. [`Error::Refused`] when the server refuses the
    /// request, for example because there is no such token.
    pub async fn revoke_service_token(&self, id: Uuid) -> Result<(), Error> {
        self.delete(&format!("{PATH}/{id}")).await
    }
}

fn rfc3339<S: serde::Serializer>(time: &DateTime<Utc>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&time.to_rfc3339())
}
