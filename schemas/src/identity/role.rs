//! Roles and the scopes that a token of each role carries.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scope::Scope;
use crate::engine::InvalidValue;

/// What a user may do, as a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads its own user and customer.
    Member,
    /// Runs one tenant.
    TenantAdmin,
    /// Reads one tenant's history, proofs and exports, and changes nothing.
    Auditor,
    /// Runs the platform: creates tenants. Exists in the tenant `platform` only.
    PlatformAdmin,
    /// A service in another process: what its token says. A user with this role follows the tenant's events.
    Integrator,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] =
        [Self::Member, Self::TenantAdmin, Self::Auditor, Self::PlatformAdmin, Self::Integrator];

    /// Parses the name of a role.
    ///
    /// # Errors
    /// `role_invalid` for any other text.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
            InvalidValue::new("role_invalid", "must be member, tenant_admin, auditor or integrator")
        })
    }

    /// The name of the role in tokens and responses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::TenantAdmin => "tenant_admin",
            Self::Auditor => "auditor",
            Self::PlatformAdmin => "platform_admin",
            Self::Integrator => "integrator",
        }
    }

    /// The scopes that a token of this role carries.
    pub fn scopes(self) -> &'static [Scope] {
        match self {
            Self::Member => &[],
            Self::Integrator => &[Scope::EventsRead],
            Self::TenantAdmin => &[
                Scope::AuditRead,
                Scope::CrmRead,
                Scope::CrmWrite,
                Scope::EventsRead,
                Scope::PersonalDataRead,
                Scope::UsersRead,
                Scope::UsersWrite,
            ],
            Self::Auditor => &[Scope::AuditRead, Scope::CrmRead, Scope::EventsRead, Scope::UsersRead],
            Self::PlatformAdmin => {
                &[Scope::AuditRead, Scope::TenantsRead, Scope::TenantsWrite, Scope::EventsRead]
            }
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
