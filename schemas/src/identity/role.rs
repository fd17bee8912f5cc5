//! Roles and the scopes that a token of each role carries.

use std::fmt;

use super::scope::Scope;
use crate::engine::{InvalidValue, enumeration};

/// What a user may do, as a name.
#[enumeration]
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
    /// Parses the name of a role.
    ///
    /// # Errors
    /// `role_invalid` for any other text.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        Self::ALL.iter().copied().find(|role| role.as_str() == text).ok_or_else(|| {
            InvalidValue::new("role_invalid", "must be member, tenant_admin, auditor or integrator")
        })
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
