//! Scopes: the named permissions of a token.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::InvalidValue;
use crate::integration::names::ExternalCategory;

/// Something that a caller may do. Tokens and events carry the name. The variants are in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Scope {
    /// Reads proofs, exports and the activity log.
    AuditRead,
    /// Reads customers.
    CrmRead,
    /// Changes customers.
    CrmWrite,
    /// Registers event types of one category.
    EventTypesWrite(ExternalCategory),
    /// Appends events to streams of one category.
    EventsAppend(ExternalCategory),
    /// Reads the tenant's events.
    EventsRead,
    /// Reads personal data in events.
    PersonalDataRead,
    /// Reads the directory of tenants.
    TenantsRead,
    /// Registers, suspends and resumes tenants.
    TenantsWrite,
    /// Reads users.
    UsersRead,
    /// Adds and changes users.
    UsersWrite,
}

/// The scopes without a category.
const PLAIN_SCOPES: [Scope; 9] = [
    Scope::AuditRead,
    Scope::CrmRead,
    Scope::CrmWrite,
    Scope::EventsRead,
    Scope::PersonalDataRead,
    Scope::UsersRead,
    Scope::UsersWrite,
    Scope::TenantsRead,
    Scope::TenantsWrite,
];
const EVENTS_APPEND: &str = "events:append:";
const EVENT_TYPES_WRITE: &str = "event_types:write:";

impl Scope {
    /// Parses the name of a scope.
    ///
    /// # Errors
    /// `scope_invalid` for an unknown name or an invalid category.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let category = |text: &str| {
            ExternalCategory::parse(text)
                .map_err(|error| InvalidValue::new("scope_invalid", format!("its category {error}")))
        };
        if let Some(text) = text.strip_prefix(EVENTS_APPEND) {
            return Ok(Self::EventsAppend(category(text)?));
        }
        if let Some(text) = text.strip_prefix(EVENT_TYPES_WRITE) {
            return Ok(Self::EventTypesWrite(category(text)?));
        }
        PLAIN_SCOPES.iter().find(|scope| scope.plain_name() == text).cloned().ok_or_else(|| {
            let names: Vec<_> = PLAIN_SCOPES.iter().map(Self::plain_name).collect();
            let message = format!(
                "must be {}, {EVENTS_APPEND}<category> or {EVENT_TYPES_WRITE}<category>",
                names.join(", ")
            );
            InvalidValue::new("scope_invalid", message)
        })
    }

    /// The name without its category.
    fn plain_name(&self) -> &'static str {
        match self {
            Self::AuditRead => "audit:read",
            Self::CrmRead => "crm:read",
            Self::CrmWrite => "crm:write",
            Self::EventsRead => "events:read",
            Self::PersonalDataRead => "pii:read",
            Self::UsersRead => "users:read",
            Self::UsersWrite => "users:write",
            Self::TenantsRead => "tenants:read",
            Self::TenantsWrite => "tenants:write",
            Self::EventsAppend(_) => EVENTS_APPEND,
            Self::EventTypesWrite(_) => EVENT_TYPES_WRITE,
        }
    }

    /// Whether the scope only reads.
    pub fn only_reads(&self) -> bool {
        match self {
            Self::AuditRead
            | Self::CrmRead
            | Self::EventsRead
            | Self::PersonalDataRead
            | Self::UsersRead
            | Self::TenantsRead => true,
            Self::CrmWrite
            | Self::UsersWrite
            | Self::TenantsWrite
            | Self::EventsAppend(_)
            | Self::EventTypesWrite(_) => false,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plain_name())?;
        match self {
            Self::EventsAppend(category) | Self::EventTypesWrite(category) => f.write_str(category.as_str()),
            _ => Ok(()),
        }
    }
}

impl TryFrom<String> for Scope {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_read_back_from_its_name() {
        for scope in PLAIN_SCOPES {
            assert_eq!(Scope::parse(&scope.to_string()), Ok(scope));
        }
        for name in ["events:append:ext.loyalty.account", "event_types:write:ext.loyalty.account"] {
            assert_eq!(Scope::parse(name).map(|scope| scope.to_string()), Ok(name.to_owned()));
        }
        for unknown in ["", "crm", "crm:Read", "events:append:", "events:append:crm.customer", "*"] {
            assert!(Scope::parse(unknown).is_err(), "{unknown}");
        }
    }
}
