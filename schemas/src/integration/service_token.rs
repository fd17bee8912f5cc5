//! Tokens of services. A service acts in a tenant without being a user. The token itself is never stored: it is derived
//! from the recorded event and the deployment's signing key.

use std::fmt;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::{InvalidValue, Name, commands, events};
use crate::identity::scope::Scope;

/// The default scopes of an auditor's token.
pub const AUDITOR_SCOPES: &[Scope] = &[Scope::AuditRead, Scope::CrmRead, Scope::EventsRead, Scope::UsersRead];

/// A scope that a service may hold. None of them changes who may do what.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceScope(Scope);

impl ServiceScope {
    /// Checks a scope: `events:read`, `crm:read`, `crm:write`, `pii:read`, `audit:read`, `users:read`,
    /// `events:append:<category>` or `event_types:write:<category>`.
    ///
    /// # Errors
    /// `scope_invalid` for anything else.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        match Scope::parse(text)? {
            scope @ (Scope::UsersWrite | Scope::TenantsRead | Scope::TenantsWrite) => {
                Err(InvalidValue::new("scope_invalid", format!("{scope} is not for services")))
            }
            scope => Ok(Self(scope)),
        }
    }

    /// The scope itself.
    pub fn scope(&self) -> &Scope {
        &self.0
    }
}

impl fmt::Display for ServiceScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for ServiceScope {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<ServiceScope> for String {
    fn from(scope: ServiceScope) -> Self {
        scope.0.to_string()
    }
}

/// What has happened to a service's token.
#[events("integration.service_token")]
pub enum ServiceTokenEvent {
    /// A tenant administrator gave a service a token.
    #[event("issued.v1")]
    Issued {
        /// What the service is called.
        name: Name,
        /// What it may do.
        scopes: Vec<ServiceScope>,
        /// When the token begins, in whole seconds.
        issued_at: DateTime<Utc>,
        /// When it ends.
        expires_at: DateTime<Utc>,
    },
    /// The token is not accepted any more.
    #[event("revoked.v1")]
    Revoked {},
}

/// The commands of a service token.
#[commands]
pub enum ServiceTokenCommand {
    /// Issues a token for a service.
    #[creates]
    #[internal]
    IssueServiceToken {
        name: Name,
        scopes: Vec<ServiceScope>,
        /// Its lifetime in days; either this or `expires_at`.
        expires_days: Option<u32>,
        /// When it expires.
        expires_at: Option<DateTime<Utc>>,
    },
    /// Revokes the token of a service.
    #[internal]
    RevokeServiceToken {},
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_gets_no_scope_that_changes_who_may_do_what() {
        for good in [
            "events:read",
            "crm:write",
            "events:append:ext.loyalty.account",
            "event_types:write:ext.loyalty.account",
        ] {
            assert!(ServiceScope::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "users:write",
            "tenants:write",
            "events:append:",
            "events:append:crm.customer",
            "events:append:ext.identity.user",
            "events:append:ext.loyalty.*",
            "events:append",
        ] {
            assert!(ServiceScope::parse(bad).is_err(), "{bad}");
        }
    }
}
